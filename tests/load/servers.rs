//! The processes that are measured, each on a Unix socket or a free port of loopback, each ended by its id.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use tempfile::TempDir;

/// A Redis without persistence.
pub(crate) struct Redis {
    child: Child,
    folder: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder can be made");
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is not on PATH: install it (Debian: apt-get install redis-server)");
        let redis = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(10);
        while redis.try_connect().is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            thread::sleep(Duration::from_millis(5));
        }
        redis
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection()?;
        redis::cmd("PING").exec(&mut connection)?;
        Ok(connection)
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as it is: connections stay, and nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().expect("process ids are positive i32"));
        nix::sys::signal::kill(pid, signal).expect("a child that runs can be signalled");
    }

    /// How many scripts clients have called.
    pub(crate) fn script_calls(&self) -> u64 {
        let mut connection = self.try_connect().expect("redis answers");
        let info: String =
            redis::cmd("INFO").arg("commandstats").query(&mut connection).expect("INFO answers");
        info.lines()
            .filter_map(|line| line.strip_prefix("cmdstat_evalsha:calls="))
            .filter_map(|rest| rest.split(',').next().and_then(|calls| calls.parse::<u64>().ok()))
            .sum()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gRPC server on a free port.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    /// The service, as it is released.
    pub(crate) fn service(redis: &Redis) -> Self {
        Self::service_with(redis, |_| {})
    }

    /// The service, with settings in its environment.
    pub(crate) fn service_with(redis: &Redis, set: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fusewire"));
        command.env("REDIS_URL", redis.url()).env("FUSEWIRE__SERVER__LISTEN", "127.0.0.1:0");
        set(&mut command);
        Self::start(command)
    }

    /// The ceilings: this program again.
    pub(crate) fn ceilings(redis: &Redis) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg("serve-ceilings").arg(free_address()).arg(redis.url());
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the server starts");
        let mut log = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let address = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("address=").map(|(_, address)| address.trim().to_owned()))
            .expect("the server tells where it listens");
        // The rest of the log must be read, or the server would stop at a full pipe.
        thread::spawn(move || log.for_each(drop));
        Self { child, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
