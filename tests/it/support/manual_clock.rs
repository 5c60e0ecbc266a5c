//! The clock of a server, moved by tests alone: a day passes at once, and time may go back.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use fusewire::clock::Timestamp;

/// Where it stands until a test sets it: a whole second of 2030.
const START: Timestamp = Timestamp::from_millis(1_893_456_000_000);

/// A clock in a file, which a library preloaded into the server reads whenever the server asks for the time.
#[derive(Debug)]
pub(crate) struct ManualRedisClock {
    path: PathBuf,
    library: PathBuf,
    stands: Mutex<Stands>,
}

#[derive(Debug)]
struct Stands {
    file: File,
    now: Timestamp,
    /// Which of the two places in the file holds the time.
    which: u8,
}

impl ManualRedisClock {
    /// Compiles the library and makes the clock, both in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let library = dir.join("manual_clock.so");
        compile(&library);
        let path = dir.join("clock");
        let file = File::options().create(true).truncate(true).write(true).open(&path);
        let file = file.expect("the temp dir is writable");
        file.set_len(24).expect("the temp dir is writable");
        let clock = Self { path, library, stands: Mutex::new(Stands { file, now: START, which: 0 }) };
        clock.set(START);
        clock
    }

    /// What a server that goes by this clock is started with.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("MANUAL_CLOCK", &self.path)]
    }

    /// Where it stands.
    pub(crate) fn now(&self) -> Timestamp {
        self.stands.lock().unwrap().now
    }

    /// Puts it to a moment, also an earlier one.
    pub(crate) fn set(&self, now: Timestamp) {
        let mut stands = self.stands.lock().unwrap();
        let which = 1 - stands.which;
        // The place that is not read, and then the byte that tells the place: no half-written time is ever seen.
        let micros = (now.as_millis() * 1000).to_ne_bytes();
        stands.file.write_all_at(&micros, u64::from(which) * 8).expect("the clock is a file of ours");
        stands.file.write_all_at(&[which], 16).expect("the clock is a file of ours");
        (stands.now, stands.which) = (now, which);
    }

    /// Moves it on.
    pub(crate) fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

fn compile(library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/manual_clock.c");
    let mut command = Command::new("cc");
    command.args(["-O1", "-shared", "-fPIC", "-o"]).arg(library).arg(source);
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("cc cannot compile the clock: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("cc, which Rust links with, cannot be run to compile the clock: {error}"),
    }
}
