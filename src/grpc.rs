//! The gRPC server: limits, keepalive, health, reflection, and an end that no client can hold up.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::server::{Router, Server},
};
use tower::layer::util::{Identity, Stack};
use tracing::{info, warn};

use self::{
    breakers::BreakersService, calls::Calls, diagnostics::DiagnosticsService, health::Health,
    streams::Streams, threads::Threads,
};
use crate::{
    breakers::Breakers,
    call::{Serving, ServingMode, Source},
    diagnostics::Diagnostics,
    error::{Error, Result},
    shutdown::Shutdown,
    threads::{ThreadStore, Ttl, watch::Wakers},
};

mod breakers;
mod calls;
mod check;
mod convert;
mod diagnostics;
mod fields;
mod health;
mod ids;
mod listener;
mod messages;
mod pages;
mod parts;
mod reflection;
mod requests;
mod status;
mod streams;
mod thread_events;
mod threads;
mod tokens;

pub use listener::{Listen, Listener};
pub use messages::digest_of;

/// The generated contract.
pub mod proto {
    #![expect(unused_qualifications, clippy::pedantic, clippy::clone_on_ref_ptr, reason = "generated")]
    #![expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]

    tonic::include_proto!("fusewire.v1");

    /// The contract's descriptors, encoded, with comments and all that it imports.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fusewire.descriptors"));
}

use proto::{
    circuit_breakers_server::CircuitBreakersServer, conversation_threads_server::ConversationThreadsServer,
    diagnostics_server::DiagnosticsServer,
};

/// How long before the drain deadline calls in flight are cut, so that their callers still get the answer.
const CUT_AHEAD: Duration = Duration::from_millis(100);

/// How the server serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The largest request in bytes; above the limits that requests are told to be over.
    pub max_request_bytes: usize,
    /// The largest response in bytes.
    pub max_response_bytes: usize,
    /// Streams open at once on one connection; HTTP/2 tells the client, which waits.
    pub max_concurrent_streams: u32,
    /// Calls in flight at once in this process; what is over is refused.
    pub max_concurrent_calls: usize,
    /// Streams of watches open at once in this process; what is over is refused.
    pub max_open_streams: usize,
    /// After this much silence a connection is pinged, by HTTP/2 and by TCP.
    pub keepalive_interval: Duration,
    /// A connection that does not answer the ping in this time is closed.
    pub keepalive_timeout: Duration,
    /// From the shutdown on, calls in flight may go on for this long.
    pub drain_deadline: Duration,
    /// Time to live of threads that are created without one.
    pub default_ttl: Ttl,
}

/// What stands behind the server.
#[derive(Debug)]
pub struct Backend<S, B> {
    /// Threads.
    pub threads: Arc<S>,
    /// What wakes those who watch threads; writes made here ring.
    pub wakers: Wakers,
    /// Circuit breakers.
    pub breakers: Arc<B>,
    /// What the server tells of this process.
    pub diagnostics: Diagnostics,
}

/// Serves on every listener until `shutdown`, and ends at most the drain deadline later.
///
/// `serving` tells whether Redis answers, or that it is switched off and memory is the only truth: health then knows no
/// service `redis`. At the shutdown health says `NOT_SERVING` before anything closes; then no call begins any more,
/// streams end, and calls in flight finish or are cut, which is no error.
pub async fn serve<S: ThreadStore, B: Breakers>(
    listeners: Vec<Listener>,
    options: Options,
    backend: Backend<S, B>,
    serving: watch::Receiver<Serving>,
    shutdown: Shutdown,
) -> Result<()> {
    let Backend { threads, wakers, breakers, diagnostics } = backend;
    let is_only_memory = serving.borrow().mode == ServingMode::Local;
    let health = Health::new(serving.clone()).await;
    let calls = Calls::new(options.max_concurrent_calls, shutdown.token());
    let streams = Streams::new(options.max_open_streams, shutdown.token());
    let knows = if is_only_memory { Source::Local { as_of: None } } else { Source::Shared };
    let threads = Threads::new(threads, options.default_ttl, knows, wakers, streams.clone());
    let diagnostics = DiagnosticsService::new(diagnostics, serving, streams.clone());
    let breakers = BreakersService::new(breakers, streams.clone());
    let routes = routes(&options, threads, breakers, diagnostics, &health)?;
    let server = server(&options, calls.clone(), routes);

    // Nobody can ask before the listeners serve.
    health.begin().await;
    let stop = CancellationToken::new();
    let start = |listener: Listener| {
        let serving = listener.serve(server.clone(), options.keepalive_interval, stop.clone());
        shutdown.spawn("listener", serving)
    };
    let servers: Vec<_> = listeners.into_iter().map(start).collect();
    tokio::select! {
        () = shutdown.token().cancelled_owned() => {}
        () = health.follow_redis() => {}
    }

    info!(calls = calls.in_flight(), streams = streams.open_now(), "shutting down");
    health.end().await;
    stop.cancel();
    drain(servers, &calls, options.drain_deadline).await
}

fn routes<S: ThreadStore, B: Breakers>(
    options: &Options,
    threads: Threads<S>,
    breakers: BreakersService<B>,
    diagnostics: DiagnosticsService,
    health: &Health,
) -> Result<Routes> {
    let threads = ConversationThreadsServer::new(threads)
        .max_decoding_message_size(options.max_request_bytes)
        .max_encoding_message_size(options.max_response_bytes);
    let breakers = CircuitBreakersServer::new(breakers)
        .max_decoding_message_size(options.max_request_bytes)
        .max_encoding_message_size(options.max_response_bytes);
    let mut routes = Routes::builder();
    routes.add_service(threads);
    routes.add_service(breakers);
    routes.add_service(DiagnosticsServer::new(diagnostics));
    routes.add_service(health.service());
    reflection::add(&mut routes)?;
    Ok(routes.routes())
}

fn server(options: &Options, calls: Calls, routes: Routes) -> Router<Stack<Calls, Identity>> {
    Server::builder()
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(Some(options.keepalive_interval))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
        .layer(calls)
        .add_routes(routes)
}

/// Waits until every connection is closed. A client that never speaks, or never reads, would keep its connection open
/// for ever, so at the deadline the rest is left behind: those connections end with the process.
async fn drain(servers: Vec<JoinHandle<Result<()>>>, calls: &Calls, deadline: Duration) -> Result<()> {
    let aborts: Vec<_> = servers.iter().map(JoinHandle::abort_handle).collect();
    let mut ended = pin!(async {
        for server in servers {
            server.await.map_err(|cause| Error::Internal(cause.into()))??;
        }
        Ok(())
    });
    if let Ok(ended) = timeout(deadline.saturating_sub(CUT_AHEAD), &mut ended).await {
        info!(cut = 0, "the server stopped");
        return ended;
    }
    let cut = calls.in_flight();
    calls.cut();
    let ended = timeout(CUT_AHEAD.min(deadline), &mut ended).await;
    aborts.iter().for_each(AbortHandle::abort);
    warn!(cut, "the server stopped at the drain deadline: clients kept connections open");
    ended.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests;
