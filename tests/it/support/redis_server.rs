//! A real redis-server of a test's own, which can be killed, stopped and brought back at the same address.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use redis::RedisResult;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::eventually::{POLL, eventually};
use super::manual_clock::ManualRedisClock;
use super::port::ReservedPort;
use super::process::Process;
use super::raw::Raw;
use super::redis_options::{CONTROL_PASSWORD, CONTROL_USER, RedisOptions, Transport};

/// Far above what a start takes (20 ms; a cluster 2 s), for a loaded machine.
const START: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct RedisServer {
    // Dropped in this order: the process before its ports and its directory.
    process: Option<Process>,
    port: Option<ReservedPort>,
    _bus: Option<ReservedPort>,
    options: RedisOptions,
    clock: Option<ManualRedisClock>,
    dir: TempDir,
}

impl RedisServer {
    /// Starts a server and returns when it answers.
    pub(crate) async fn start(options: RedisOptions) -> Self {
        let (port, bus) = match options.transport {
            Transport::UnixSocket => (None, None),
            Transport::Tcp | Transport::Tls(..) => (Some(ReservedPort::any()), None),
            Transport::Cluster => {
                let (port, bus) = ReservedPort::any_with_cluster_bus();
                (Some(port), Some(bus))
            }
        };
        let dir = tempfile::Builder::new().prefix("it-redis-").tempdir().expect("the temp dir is writable");
        let clock = options.has_manual_clock.then(|| ManualRedisClock::new(dir.path()));
        let mut server = Self { process: None, port, _bus: bus, options, clock, dir };
        server.launch().await;
        server
    }

    /// The URL for clients, with the password of the default user if there is one.
    pub(crate) fn url(&self) -> String {
        self.url_with("", self.options.password.as_deref().unwrap_or_default())
    }

    /// The URL for clients that log in as `user`.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        self.url_with(user, password)
    }

    /// The TCP address, also while the server is down.
    ///
    /// # Panics
    /// When the server has none.
    pub(crate) fn addr(&self) -> SocketAddr {
        let port =
            self.port.as_ref().expect("this redis-server has no TCP port: start it with RedisOptions::tcp()");
        port.addr()
    }

    /// The server's clock.
    ///
    /// # Panics
    /// When it is the machine's.
    pub(crate) fn clock(&self) -> &ManualRedisClock {
        self.clock.as_ref().expect("start it with RedisOptions::with_manual_clock()")
    }

    /// Opens a connection of the test's own: over the unix socket, as a user who may do everything.
    ///
    /// # Panics
    /// When the server doesn't answer; a stopped one is noticed after ten seconds.
    pub(crate) async fn raw(&self) -> Raw {
        match connect(&self.socket()).await {
            Ok(raw) => raw,
            Err(error) => {
                panic!("redis-server cannot be asked, is it killed or stopped? {error}\n{}", self.log())
            }
        }
    }

    /// Ends the server with SIGKILL. From then on connections are refused.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Freezes the server with SIGSTOP: connections are accepted by the kernel, and nothing is answered.
    pub(crate) fn stop_signal(&mut self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Thaws the server.
    pub(crate) fn continue_signal(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Brings the server back with its data. One that runs is shut down and saves first; one that was killed
    /// has what it had on disk, hence nothing unless it was `append_only()` or told to SAVE.
    pub(crate) async fn restart(&mut self) {
        if self.process.is_some() {
            self.continue_signal();
            // Redis closes the connection instead of answering.
            let _: RedisResult<()> = self.raw().await.try_get(&["SHUTDOWN", "SAVE"]).await;
            let ended = self.process.as_mut().expect("it runs").wait_exit(START).await;
            assert!(
                ended.is_some(),
                "redis-server did not shut down, could it not save? Its log:\n{}",
                self.log()
            );
            self.process = None;
        }
        self.launch().await;
    }

    /// Kills the server and brings it back at the same address without any data.
    pub(crate) async fn restart_empty(&mut self) {
        self.kill();
        fs::remove_dir_all(self.data()).expect("the data directory is ours");
        self.launch().await;
    }

    async fn launch(&mut self) {
        let config = self.dir.path().join("redis.conf");
        let text = self.options.config_file(self.port.as_ref(), &self.socket(), &self.data());
        fs::create_dir_all(self.data()).expect("the temp dir is writable");
        fs::write(&config, text).expect("the temp dir is writable");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the temp dir is writable");
        let errors = log.try_clone().expect("a file can be shared");

        let mut command = Command::new("redis-server");
        command.arg(&config).stdin(Stdio::null()).stdout(log).stderr(errors);
        if let Some(clock) = &self.clock {
            command.envs(clock.variables());
        }
        let process = match Process::spawn(&mut command) {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not on PATH: install it (Debian: apt-get install redis-server)");
            }
            Err(error) => panic!("redis-server cannot be started: {error}"),
        };
        let socket = self.socket();
        let process = self.process.insert(process);
        let answered = timeout(START, async {
            while process.exit_status().is_none() {
                if let Ok(raw) = connect(&socket).await
                    && raw.try_get::<()>(&["PING"]).await.is_ok()
                {
                    return true;
                }
                sleep(POLL).await;
            }
            false
        });
        let answered = answered.await.unwrap_or(false);
        assert!(answered, "redis-server does not answer, see its log:\n{}", self.log());
        if matches!(self.options.transport, Transport::Cluster) {
            self.form_cluster().await;
        }
    }

    async fn form_cluster(&self) {
        let raw = self.raw().await;
        let info = async || raw.get::<String>(&["CLUSTER", "INFO"]).await;
        if info().await.contains("cluster_slots_assigned:0") {
            // ADDSLOTSRANGE would be shorter; Redis 6.2 doesn't have it.
            let words = ["CLUSTER", "ADDSLOTS"].map(str::to_owned).into_iter();
            let command: Vec<String> = words.chain((0..16_384).map(|slot| slot.to_string())).collect();
            raw.run(&command).await;
        }
        eventually("the cluster of one node serves", START, async || {
            info().await.contains("cluster_state:ok")
        })
        .await;
    }

    fn signal(&mut self, signal: Signal) {
        self.process.as_mut().expect("this redis-server was killed: call restart() first").signal(signal);
    }

    fn url_with(&self, user: &str, password: &str) -> String {
        let login = if password.is_empty() { String::new() } else { format!("{user}:{password}@") };
        match self.options.transport {
            Transport::Tcp | Transport::Cluster => format!("redis://{login}{}", self.addr()),
            Transport::Tls(..) => format!("rediss://{login}{}", self.addr()),
            Transport::UnixSocket => {
                let login = match (user, password) {
                    ("", "") => String::new(),
                    ("", _) => format!("?pass={password}"),
                    _ => format!("?user={user}&pass={password}"),
                };
                format!("redis+unix://{}{login}", self.socket().display())
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("redis.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

async fn connect(socket: &Path) -> RedisResult<Raw> {
    Raw::connect(socket, CONTROL_USER, CONTROL_PASSWORD).await
}
