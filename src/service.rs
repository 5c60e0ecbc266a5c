//! Puts the parts together: from settings to a running service, told in the log step by step.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    breakers::{BreakerStore, Breakers, Engine},
    call::{Serving, ServingMode},
    clock::{Clock, SystemClock, Timestamp, fresh_id},
    diagnostics::Diagnostics,
    error::{Error, Result},
    grpc::{self, Backend, Listener},
    memory::{MemoryBreakers, MemoryThreads},
    outage,
    settings::{Listen, Settings},
    shutdown::Shutdown,
    threads::{Limits, ThreadStore, Ttl, watch::Wakers},
};

mod on_redis;
#[cfg(test)]
mod tests;

/// Why the service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// An address is taken, malformed or not ours.
    #[error("cannot listen on {address}: {cause}")]
    Address {
        /// The address as it was configured.
        address: Listen,
        /// What the system says.
        cause: io::Error,
    },
    /// `redis.required` is set, and Redis cannot be used.
    #[error("redis is required (redis.required): {0}")]
    Required(#[source] Error),
    /// The journal file cannot be used.
    #[error(transparent)]
    Journal(#[from] outage::OpenError),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Error),
}

/// Runs the service until the shutdown; ends within the drain deadline after it, whatever clients do.
///
/// Fails when an address cannot be listened on, when the journal file cannot be used, when settings can never work, and
/// when `redis.required` is set and Redis does not answer.
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), Fault> {
    let (instance, started) = (fresh_id(&SystemClock), SystemClock.now());
    info!(instance, "this process in the history of breakers");
    if settings.redis.enabled {
        on_redis::run(settings, &instance, started, shutdown).await
    } else {
        info!("redis is switched off: threads and breakers live in this process's memory alone");
        if settings.fallback.journal_path.is_some() {
            warn!("the journal file (fallback.journal_path) is not used: nothing waits to be merged");
        }
        run_in_memory(settings, &instance, started, shutdown).await
    }
}

async fn run_in_memory(
    settings: Settings,
    instance: &str,
    started: Timestamp,
    shutdown: Shutdown,
) -> Result<(), Fault> {
    let store = Arc::new(MemoryThreads::new(SystemClock, limits(&settings), settings.memory.max_bytes));
    let breakers =
        MemoryBreakers::new(SystemClock, settings.memory.max_breakers).of_instance(instance.into());
    let policies = settings.breakers.policies.clone();
    let breakers = Engine::new(breakers, policies, instance, None, shutdown.clone());
    start(&breakers, &shutdown);
    let (threads, local) = (Arc::clone(&store), breakers.clone());
    let diagnostics = Diagnostics {
        instance: instance.into(),
        started,
        redis: None,
        journal: None,
        doorbell: None,
        local_threads: Box::new(move || threads.len()),
        local_breakers: Box::new(move || local.store().len()),
    };
    let (_mode, serving) = watch::channel(Serving { mode: ServingMode::Local, since: started });
    let backend =
        Backend { threads: store, wakers: Wakers::default(), breakers: Arc::new(breakers), diagnostics };
    serve(settings, backend, serving, shutdown).await
}

fn limits(settings: &Settings) -> Limits {
    Limits { max_messages: settings.threads.max_messages, max_bytes: settings.threads.max_bytes }
}

/// Has an engine do what it does by itself.
fn start<S: BreakerStore>(engine: &Engine<S>, shutdown: &Shutdown) {
    let (engine, token) = (engine.clone(), shutdown.token());
    shutdown.spawn("breakers", async move { engine.run(token).await });
}

async fn serve<S: ThreadStore, B: Breakers>(
    settings: Settings,
    backend: Backend<S, B>,
    serving: watch::Receiver<Serving>,
    shutdown: Shutdown,
) -> Result<(), Fault> {
    let default_ttl = Ttl::new("threads.default_ttl", settings.threads.default_ttl)
        .map_err(|violation| Error::Invalid(vec![violation]))?;
    info!(ttl = %humantime::format_duration(settings.threads.default_ttl), "thread time to live");
    info!(interval = %humantime::format_duration(settings.threads.sweep_interval), "thread sweep");
    let mut listeners = Vec::new();
    for address in &settings.server.listen {
        let listener = Listener::bind(address)
            .await
            .map_err(|cause| Fault::Address { address: address.clone(), cause })?;
        info!(address = %listener.local_address(), "listening");
        listeners.push(listener);
    }
    shutdown.spawn(
        "sweep",
        sweep(Arc::clone(&backend.threads), settings.threads.sweep_interval, shutdown.clone()),
    );

    let drain_deadline = settings.server.drain_deadline;
    let ended =
        grpc::serve(listeners, settings.server, default_ttl, backend, serving, shutdown.clone()).await;
    end(&shutdown, drain_deadline).await;
    Ok(ended?)
}

/// Lets tasks finish what they have begun, as what is being written to the journal file, with the time that is left.
async fn end(shutdown: &Shutdown, drain_deadline: Duration) {
    shutdown.trigger();
    if !shutdown.wait(drain_deadline.saturating_sub(shutdown.elapsed())).await {
        warn!("the drain deadline has passed: tasks that have not ended are left behind");
    }
}

/// Sweeps for ever, one pause after the other.
async fn sweep<S: ThreadStore>(store: Arc<S>, interval: Duration, shutdown: Shutdown) {
    let token = shutdown.token();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = sleep(interval) => {}
        }
        let swept = tokio::select! {
            () = token.cancelled() => return,
            swept = store.sweep().instrument(info_span!("sweep")) => swept,
        };
        match swept {
            Ok(swept) if swept.removed > 0 || swept.repaired > 0 => {
                info!(removed = swept.removed, repaired = swept.repaired, "swept expired threads");
            }
            Ok(_) => debug!("found no expired threads to sweep"),
            Err(cause) => warn!(error = %cause, "could not sweep expired threads"),
        }
    }
}
