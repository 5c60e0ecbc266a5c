//! How the process ends: one token that everything watches, and one tracker that every task runs on.

use std::{
    future::Future,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, debug_span};

/// Tells every task to end, and waits for them. Clones are the same shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    begun: Arc<OnceLock<Instant>>,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Makes a shutdown that nobody has triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the token that is cancelled when the shutdown begins.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a future as a task that [`Shutdown::wait`] waits for, inside a span that names it. The future must end soon
    /// after the token is cancelled. Every task of the process is started here.
    pub fn spawn<F>(&self, task: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(future.instrument(debug_span!("task", task)))
    }

    /// Runs work that blocks on a thread where it holds up no task; [`Shutdown::wait`] waits for it. It must end by
    /// itself, for nothing can interrupt it.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let span = Span::current();
        self.tasks.spawn_blocking(move || span.in_scope(work))
    }

    /// Begins the shutdown; once is enough.
    pub fn trigger(&self) {
        self.begun.get_or_init(Instant::now);
        self.token.cancel();
    }

    /// Whether the shutdown has begun.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// How long ago the shutdown began; zero if it has not.
    pub fn elapsed(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Waits until every task has ended, at most so long; false if some had not.
    pub async fn wait(&self, deadline: Duration) -> bool {
        self.tasks.close();
        timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Caught {
    /// Returns the exit code of a process that the signal ended, as shells tell it: 128 and the signal's number.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// The signals SIGTERM and SIGINT, caught from [`Signals::listen`] on.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over from the system, which would end the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal and triggers the shutdown.
    pub async fn trigger(&mut self, shutdown: &Shutdown) -> Caught {
        let caught = self.next().await;
        shutdown.trigger();
        caught
    }

    /// Waits for one more signal, after which the process should end at once.
    pub async fn second_signal(&mut self) -> Caught {
        self.next().await
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.interrupt.recv() => Caught::Interrupt,
            _ = self.terminate.recv() => Caught::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_every_task_has() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let task = shutdown.spawn("test", async move { token.cancelled().await });
        assert!(!shutdown.wait(Duration::from_secs(1)).await);
        shutdown.trigger();
        assert!(shutdown.wait(Duration::from_secs(1)).await);
        assert!(task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_token_does_not_hold_the_process() {
        let shutdown = Shutdown::new();
        let _task = shutdown.spawn("test", std::future::pending::<()>());
        shutdown.trigger();
        assert!(!shutdown.wait(Duration::from_secs(10)).await);
    }
}
