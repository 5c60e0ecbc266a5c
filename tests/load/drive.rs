//! Drives one rpc with h2load and reads what it cost.

use std::{fs, io::Write, process::Command};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::servers::{Redis, Server};

const IN_FLIGHT: u32 = 128;
const CONNECTIONS: u32 = 4;

/// One measurement to be made.
pub(crate) struct Drive<'a> {
    pub(crate) server: &'a Server,
    pub(crate) redis: &'a Redis,
    pub(crate) path: String,
    /// The request, encoded.
    pub(crate) body: Vec<u8>,
    pub(crate) seconds: u32,
}

/// What a measurement found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    pub(crate) redis_commands: f64,
}

impl Drive<'_> {
    pub(crate) fn run(&self) -> Figures {
        let mut body = NamedTempFile::new().expect("a file can be made");
        let length = u32::try_from(self.body.len()).expect("a request fits");
        body.write_all(&[0]).and_then(|()| body.write_all(&length.to_be_bytes())).expect("it can be written");
        body.write_all(&self.body).expect("it can be written");
        let log = NamedTempFile::new().expect("a file can be made");

        let before = (cpu_us(self.server.pid()), cpu_us(self.redis.pid()), self.redis.commands());
        let output = Command::new("h2load")
            .args(["--header", "content-type: application/grpc", "--header", "te: trailers", "--data"])
            .arg(body.path())
            .arg(format!("--log-file={}", log.path().display()))
            .arg(format!("--duration={}", self.seconds))
            .arg(format!("--clients={CONNECTIONS}"))
            .arg(format!("--max-concurrent-streams={}", IN_FLIGHT / CONNECTIONS))
            .arg(format!("http://{}{}", self.server.address, self.path))
            .output()
            .expect("h2load is not on PATH: install it (Debian: apt-get install nghttp2-client)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let after = (cpu_us(self.server.pid()), cpu_us(self.redis.pid()), self.redis.commands());

        let text = fs::read_to_string(log.path()).expect("h2load wrote its log");
        let mut times: Vec<f64> =
            text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
        times.sort_by(f64::total_cmp);
        assert!(times.len() > 100, "{} answered only {} calls", self.path, times.len());
        let calls = times.len() as f64;
        Figures {
            rate: calls / f64::from(self.seconds),
            p50_us: times[times.len() / 2],
            p99_us: times[times.len() * 99 / 100],
            server_cpu_us: (after.0 - before.0) / calls,
            redis_cpu_us: (after.1 - before.1) / calls,
            redis_commands: (after.2 - before.2) as f64 / calls,
        }
    }
}

impl Figures {
    /// The median of each figure.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            rate: of(|figures| figures.rate),
            p50_us: of(|figures| figures.p50_us),
            p99_us: of(|figures| figures.p99_us),
            server_cpu_us: of(|figures| figures.server_cpu_us),
            redis_cpu_us: of(|figures| figures.redis_cpu_us),
            redis_commands: of(|figures| figures.redis_commands),
        }
    }
}

/// CPU time that a process has used, in microseconds; Linux counts in ticks of 10 ms.
fn cpu_us(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks * 10_000.0
}
