//! Drives one rpc and reads what it cost.

use std::{fs, io::Write, process::Command, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::{
    rotate,
    servers::{Redis, Server},
};

const IN_FLIGHT: usize = 128;
const CONNECTIONS: usize = 4;

/// One measurement to be made.
pub(crate) struct Drive<'a> {
    pub(crate) server: &'a Server,
    pub(crate) redis: &'a Redis,
    pub(crate) path: String,
    /// The requests, encoded; several take turns.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) seconds: u32,
}

/// What a measurement found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    /// The rate, as a share of the ceilings'; 0 for one measurement alone.
    pub(crate) x_echo: f64,
    pub(crate) x_bare: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    pub(crate) script_calls: f64,
}

impl Drive<'_> {
    pub(crate) fn run(&self) -> Figures {
        let framed: Vec<Bytes> = self.requests.iter().map(|request| frame(request)).collect();
        let before = (cpu_us(self.server.pid()), cpu_us(self.redis.pid()), self.redis.script_calls());
        let mut times = match &framed[..] {
            [request] => self.drive_with_h2load(request),
            _ => rotate::drive(
                &self.server.address,
                &self.path,
                &Arc::new(framed),
                (CONNECTIONS, IN_FLIGHT),
                Duration::from_secs(self.seconds.into()),
            ),
        };
        let after = (cpu_us(self.server.pid()), cpu_us(self.redis.pid()), self.redis.script_calls());

        times.sort_by(f64::total_cmp);
        assert!(times.len() > 100, "{} answered only {} calls", self.path, times.len());
        let calls = times.len() as f64;
        Figures {
            rate: calls / f64::from(self.seconds),
            x_echo: 0.0,
            x_bare: 0.0,
            p50_us: times[times.len() / 2],
            p99_us: times[times.len() * 99 / 100],
            server_cpu_us: (after.0 - before.0) / calls,
            redis_cpu_us: (after.1 - before.1) / calls,
            script_calls: (after.2 - before.2) as f64 / calls,
        }
    }

    /// Repeats one request; answers each call's time in microseconds.
    fn drive_with_h2load(&self, request: &Bytes) -> Vec<f64> {
        let mut body = NamedTempFile::new().expect("a file can be made");
        body.write_all(request).expect("it can be written");
        let log = NamedTempFile::new().expect("a file can be made");
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
        let text = fs::read_to_string(log.path()).expect("h2load wrote its log");
        text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect()
    }
}

/// A request as gRPC sends it: not compressed, behind its length.
fn frame(request: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(request.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(request.len()).expect("a request fits"));
    framed.put_slice(request);
    framed.freeze()
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
            x_echo: 0.0,
            x_bare: 0.0,
            p50_us: of(|figures| figures.p50_us),
            p99_us: of(|figures| figures.p99_us),
            server_cpu_us: of(|figures| figures.server_cpu_us),
            redis_cpu_us: of(|figures| figures.redis_cpu_us),
            script_calls: of(|figures| figures.script_calls),
        }
    }
}

/// CPU time that a process has used, in microseconds; Linux counts in ticks of 10 ms.
pub(crate) fn cpu_us(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks * 10_000.0
}
