//! What callers sent, and what they were told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use fusewire::grpc::proto::{AppendedMessage, Authority, Message};

/// More than this is not told of what went wrong.
const TOLD: usize = 30;

#[derive(Debug, Default)]
pub(super) struct Books {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    threads: BTreeMap<String, Account>,
    /// Acknowledgements so far, of all threads.
    clock: u64,
    shared: u64,
    local: u64,
    /// Answers that are no promise.
    refused: u64,
    wrong: Vec<String>,
}

/// One thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) batches: Vec<Batch>,
    /// What was told to stand where, and when it was told first.
    pub(super) seqs: BTreeMap<i64, (String, u64)>,
    /// Whether each of the instances acknowledged something.
    told_by: [bool; 2],
}

/// The messages of one call, which is made again until it is acknowledged or given up.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) writer: usize,
    pub(super) ids: Vec<String>,
    pub(super) is_acknowledged: bool,
}

/// What a reader may count on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promised {
    /// Acknowledgements before this one were made before the read began.
    clock: u64,
    /// The highest seq that was told.
    pub(super) last_seq: i64,
    /// Whether the instance that is asked acknowledged something, or Redis did.
    pub(super) is_known: bool,
}

/// How many answers there were of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answers {
    pub(crate) shared: u64,
    pub(crate) local: u64,
    pub(crate) refused: u64,
}

impl Books {
    /// Notes a batch before it is sent; its place.
    pub(super) fn send(&self, thread: &str, writer: usize, messages: &[Message]) -> usize {
        let ids = messages.iter().map(|message| message.id.clone()).collect();
        self.with(|pages| {
            let account = pages.threads.entry(thread.to_owned()).or_default();
            account.batches.push(Batch { writer, ids, is_acknowledged: false });
            account.batches.len() - 1
        })
    }

    /// Notes what the sender of a batch was told.
    pub(super) fn acknowledge(
        &self,
        thread: &str,
        batch: usize,
        side: usize,
        told: &[AppendedMessage],
        authority: Authority,
    ) {
        self.with(|pages| {
            pages.clock += 1;
            let clock = pages.clock;
            let account = pages.threads.get_mut(thread).expect("it was sent");
            let wrong = account.acknowledge(batch, side, told, authority, clock);
            match authority {
                Authority::Local => pages.local += 1,
                Authority::Shared | Authority::Unspecified => pages.shared += 1,
            }
            pages.wrong.extend(wrong.into_iter().map(|what| format!("{thread}: {what}: {told:?}")));
        });
    }

    pub(super) fn refused(&self) {
        self.with(|pages| pages.refused += 1);
    }

    /// Notes what must not happen.
    pub(super) fn wrong(&self, what: String) {
        self.with(|pages| {
            if pages.wrong.len() < TOLD {
                eprintln!("storm: WRONG: {what}");
            }
            pages.wrong.push(what);
        });
    }

    pub(super) fn answers(&self) -> Answers {
        self.with(|pages| Answers { shared: pages.shared, local: pages.local, refused: pages.refused })
    }

    /// What went wrong so far.
    pub(super) fn told(&self) -> Vec<String> {
        self.with(|pages| pages.wrong.iter().take(TOLD).cloned().collect())
    }

    pub(super) fn accounts(&self) -> BTreeMap<String, Account> {
        self.with(|pages| pages.threads.clone())
    }

    /// The threads that anything was sent to.
    pub(super) fn names(&self) -> Vec<String> {
        self.with(|pages| pages.threads.keys().cloned().collect())
    }

    /// What someone who reads a thread from one of the instances now may count on.
    pub(super) fn promised(&self, thread: &str, side: usize) -> Promised {
        self.with(|pages| {
            let account = pages.threads.get(thread);
            let last_seq = account.and_then(|account| Some(*account.seqs.last_key_value()?.0));
            Promised {
                clock: pages.clock,
                last_seq: last_seq.unwrap_or_default(),
                is_known: last_seq.is_some() || account.is_some_and(|account| account.told_by[side]),
            }
        })
    }

    /// Compares messages that somebody was shown, all that there are between the lowest and the highest seq, with what
    /// was promised before.
    pub(super) fn compare(
        &self,
        thread: &str,
        promised: Promised,
        shown: &[Message],
        (low, high): (i64, i64),
        is_shared: bool,
    ) {
        let wrong = self.with(|pages| {
            let account = pages.threads.get(thread)?;
            let standing: BTreeMap<i64, &str> =
                shown.iter().filter(|m| m.seq > 0).map(|m| (m.seq, m.id.as_str())).collect();
            let lie = standing
                .iter()
                .find(|(seq, id)| account.seqs.get(seq).is_some_and(|(known, _)| known.as_str() != **id));
            if let Some((seq, id)) = lie {
                return Some(format!("{id} stands at {seq}, where {:?} was told to", account.seqs.get(seq)));
            }
            if !is_shared || low > high {
                return None;
            }
            let missing = account
                .seqs
                .range(low..=high)
                .find(|(seq, (_, clock))| *clock <= promised.clock && !standing.contains_key(seq));
            missing.map(|(seq, id)| format!("{id:?} at {seq} is not shown among {low} to {high}"))
        });
        if let Some(wrong) = wrong {
            self.wrong(format!("{thread}: {wrong}"));
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Pages) -> T) -> T {
        act(&mut self.pages.lock().expect("nobody panics with it"))
    }
}

impl Account {
    /// Notes an acknowledgement; what is wrong about it.
    fn acknowledge(
        &mut self,
        batch: usize,
        side: usize,
        told: &[AppendedMessage],
        authority: Authority,
        clock: u64,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let batch = &mut self.batches[batch];
        batch.is_acknowledged = true;
        self.told_by[side] = true;
        if !told.iter().map(|message| &message.id).eq(&batch.ids) {
            wrong.push(format!("not the ids that were sent: {:?}", batch.ids));
        }
        for AppendedMessage { id, seq, provisional, .. } in told {
            let is_right = match authority {
                Authority::Shared => *seq > 0 && !provisional,
                // Memory tells where a message stands if it knows that Redis has it.
                Authority::Local => (*seq == 0) == *provisional,
                Authority::Unspecified => false,
            };
            if !is_right {
                wrong.push(format!("{authority:?} does not go with it"));
            }
            if *seq == 0 {
                continue;
            }
            let (known, _) = self.seqs.entry(*seq).or_insert_with(|| (id.clone(), clock));
            if known != id {
                wrong.push(format!("{known} was told to stand at {seq}"));
            }
        }
        let standing: BTreeSet<i64> = told.iter().map(|message| message.seq).filter(|seq| *seq > 0).collect();
        if let (Some(first), Some(last)) = (standing.first(), standing.last())
            && usize::try_from(last - first).ok() != Some(batch.ids.len() - 1)
        {
            wrong.push("not in one piece".to_owned());
        }
        wrong
    }
}
