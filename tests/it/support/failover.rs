//! A failover to a replica that lagged behind: a thread as it was a while ago.

use super::raw::Raw;

const PARTS: [&str; 3] = ["", ":messages", ":ids"];

/// A thread as a replica has it that lags behind from now on.
pub(crate) struct Replica {
    parts: Vec<(String, Vec<u8>)>,
}

impl Replica {
    /// Takes what is kept of a thread now.
    pub(crate) async fn of(raw: &Raw, id: &str) -> Self {
        let mut parts = Vec::new();
        for part in PARTS {
            let key = format!("conversation_thread:{{{id}}}{part}");
            parts.push((key.clone(), raw.get(&["DUMP", &key]).await));
        }
        Self { parts }
    }

    /// Makes it what is left when that replica becomes the primary.
    pub(crate) async fn promote(&self, raw: &Raw) {
        for (key, value) in &self.parts {
            let command: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"7200000", value, b"REPLACE"];
            raw.run(&command).await;
        }
    }
}
