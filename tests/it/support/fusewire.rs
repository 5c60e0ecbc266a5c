//! The service under test: the built binary as a child, with its log at hand.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};

use super::process::Process;

/// How long a start may take on a loaded machine.
const START: Duration = Duration::from_secs(10);
const LISTEN: &str = "FUSEWIRE__SERVER__LISTEN";

/// The variables of the service: nothing of the test's own environment but PATH and HOME.
#[derive(Clone, Debug, Default)]
pub(crate) struct FusewireOptions {
    listens_on_tcp: bool,
    vars: Vec<(String, String)>,
    args: Vec<String>,
    prelude: Option<&'static str>,
    files: Vec<(String, String)>,
}

impl FusewireOptions {
    pub(crate) fn unix_socket() -> Self {
        Self::default()
    }

    /// Listens on a free port of 127.0.0.1, read from the log.
    pub(crate) fn tcp() -> Self {
        Self { listens_on_tcp: true, ..Self::default() }
    }

    /// Sets a variable; the last value counts.
    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument to the command line.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Has a shell do this first, in the process that then becomes the service.
    pub(crate) fn prelude(mut self, command: &'static str) -> Self {
        self.prelude = Some(command);
        self
    }

    /// Puts a file into the directory that the service starts in.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }
}

#[derive(Debug)]
pub(crate) struct Fusewire {
    // Dropped in this order: the process before its directory.
    process: Process,
    /// Empty until the address is known.
    uri: String,
    /// Every line of stdout and stderr so far; closed when they are.
    log: watch::Receiver<Vec<String>>,
    dir: TempDir,
}

impl Fusewire {
    /// Starts the service in an empty directory and returns when it listens.
    ///
    /// # Panics
    /// When it ends instead or takes longer than ten seconds; the log is shown.
    pub(crate) async fn start(options: FusewireOptions) -> Self {
        let mut service = Self::spawn(options);
        let line = service.wait_for_log("listening", START).await;
        if service.uri.is_empty() {
            let Some(address) = address_in(&line) else {
                panic!("this line names no address=<ip>:<port>: {line}")
            };
            service.uri = format!("http://{address}");
        }
        service
    }

    /// Starts the service without waiting: for one that is expected to end, or is watched while it starts.
    pub(crate) fn spawn(options: FusewireOptions) -> Self {
        let dir =
            tempfile::Builder::new().prefix("it-fusewire-").tempdir().expect("the temp dir is writable");
        let socket = format!("unix:{}", dir.path().join("fusewire.sock").display());
        let (listen, uri) = if options.listens_on_tcp {
            ("127.0.0.1:0".to_owned(), String::new())
        } else {
            (socket.clone(), socket)
        };
        for (name, text) in options.files {
            fs::write(dir.path().join(name), text).expect("the temp dir is writable");
        }
        let kept = ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, env::var_os(name)?)));

        let mut command = match options.prelude {
            None => Command::new(env!("CARGO_BIN_EXE_fusewire")),
            Some(prelude) => {
                let mut shell = Command::new("bash");
                shell.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_fusewire")]);
                shell
            }
        };
        command.current_dir(dir.path()).env_clear().envs(kept).env(LISTEN, listen).envs(options.vars);
        command.args(options.args);
        // One pipe for both, so that their lines stay in order.
        let (output, input) = io::pipe().expect("a pipe can be made");
        let errors = input.try_clone().expect("a pipe can be shared");
        command.stdin(Stdio::null()).stdout(input).stderr(errors);
        let process = Process::spawn(&mut command).expect("the binary that cargo built can be started");
        let lines = watch::Sender::new(Vec::new());
        let log = lines.subscribe();
        // Ends with the service, which holds the only other end of the pipe once `command` is gone.
        thread::spawn(move || record(output, &lines));
        Self { process, uri, log, dir }
    }

    /// `unix:/…/fusewire.sock` or `http://127.0.0.1:<port>`.
    pub(crate) fn uri(&self) -> &str {
        assert!(!self.uri.is_empty(), "the port is not known: use Fusewire::start(), which waits for it");
        &self.uri
    }

    /// What a client with settings of its own connects to.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(self.uri().to_owned()).expect("the address is a URI")
    }

    /// Opens a connection. A clone shares it.
    pub(crate) async fn channel(&self) -> Channel {
        match self.endpoint().connect().await {
            Ok(channel) => channel,
            Err(error) => panic!("cannot connect to {}: {error:?}\n{}", self.uri, self.shown_log()),
        }
    }

    /// The directory that the service was started in, where its socket is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Counts the lines of the log so far that contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log.borrow().iter().filter(|line| line.contains(text)).count()
    }

    /// Returns every line of stdout and stderr so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Returns the first line that contains `text`, logged already or within `deadline`.
    ///
    /// # Panics
    /// When there is none, or the service has ended without it; the log is shown.
    pub(crate) async fn wait_for_log(&self, text: &str, deadline: Duration) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let mut log = self.log.clone();
        let why = match timeout(deadline, log.wait_for(|lines| find(lines).is_some())).await {
            Ok(Ok(lines)) => return find(&lines).expect("it was there when the wait ended"),
            Ok(Err(_closed)) => "fusewire has ended".to_owned(),
            Err(_elapsed) => format!("{deadline:?} have passed"),
        };
        panic!("no line with {text:?}: {why}. Its log:\n{}", self.shown_log());
    }

    /// The memory that it has in use, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends the service with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Returns how the service ended; its log is complete then.
    ///
    /// # Panics
    /// When it still runs after `deadline`; the log is shown.
    pub(crate) async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        let Some(status) = self.process.wait_exit(deadline).await else {
            panic!("fusewire still runs after {deadline:?}. Its log:\n{}", self.shown_log());
        };
        // Fails when the outputs are closed, which is what is waited for.
        let _ = timeout_at(until, self.log.clone().wait_for(|_| false)).await;
        status
    }

    fn shown_log(&self) -> String {
        self.log.borrow().join("\n")
    }
}

fn record(output: PipeReader, lines: &watch::Sender<Vec<String>>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        lines.send_modify(|lines| lines.push(String::from_utf8_lossy(&line).into_owned()));
    }
}

/// Finds `address=127.0.0.1:43121` or `"address":"127.0.0.1:43121"`.
fn address_in(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("address=").or_else(|| line.split_once(r#""address":""#))?;
    rest.split(|c: char| c == '"' || c == ',' || c.is_whitespace()).find(|value| !value.is_empty())
}

impl Drop for Fusewire {
    /// Shows the log of the service when the test failed.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the service:\n{}", self.log().join("\n"));
        }
    }
}
