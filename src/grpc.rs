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
    settings::ServerSettings,
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

pub use listener::Listener;
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

/// Serves on every listener until `shutdown`, and ends at most the drain deadline later. Threads that are created without
/// a time to live have `default_ttl`.
///
/// `serving` tells whether Redis answers, or that it is switched off and memory is the only truth: health then knows no
/// service `redis`. At the shutdown health says `NOT_SERVING` before anything closes; then no call begins any more,
/// streams end, and calls in flight finish or are cut, which is no error.
pub async fn serve<S: ThreadStore, B: Breakers>(
    listeners: Vec<Listener>,
    settings: ServerSettings,
    default_ttl: Ttl,
    backend: Backend<S, B>,
    serving: watch::Receiver<Serving>,
    shutdown: Shutdown,
) -> Result<()> {
    let Backend { threads, wakers, breakers, diagnostics } = backend;
    let is_only_memory = serving.borrow().mode == ServingMode::Local;
    let health = Health::new(serving.clone()).await;
    let calls = Calls::new(settings.max_concurrent_calls, shutdown.token());
    let streams = Streams::new(settings.max_open_streams, shutdown.token());
    let knows = if is_only_memory { Source::Local { as_of: None } } else { Source::Shared };
    let threads = Threads::new(threads, default_ttl, knows, wakers, streams.clone());
    let diagnostics = DiagnosticsService::new(diagnostics, serving, streams.clone());
    let breakers = BreakersService::new(breakers, streams.clone());
    let routes = routes(&settings, threads, breakers, diagnostics, &health)?;
    let server = server(&settings, calls.clone(), routes);

    // Nobody can ask before the listeners serve.
    health.begin().await;
    let stop = CancellationToken::new();
    let start = |listener: Listener| {
        let serving = listener.serve(server.clone(), settings.keepalive_interval, stop.clone());
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
    drain(servers, &calls, settings.drain_deadline).await
}

fn routes<S: ThreadStore, B: Breakers>(
    settings: &ServerSettings,
    threads: Threads<S>,
    breakers: BreakersService<B>,
    diagnostics: DiagnosticsService,
    health: &Health,
) -> Result<Routes> {
    let threads = ConversationThreadsServer::new(threads)
        .max_decoding_message_size(settings.max_request_bytes)
        .max_encoding_message_size(settings.max_response_bytes);
    let breakers = CircuitBreakersServer::new(breakers)
        .max_decoding_message_size(settings.max_request_bytes)
        .max_encoding_message_size(settings.max_response_bytes);
    let mut routes = Routes::builder();
    routes.add_service(threads);
    routes.add_service(breakers);
    routes.add_service(DiagnosticsServer::new(diagnostics));
    routes.add_service(health.service());
    reflection::add(&mut routes)?;
    Ok(routes.routes())
}

fn server(settings: &ServerSettings, calls: Calls, routes: Routes) -> Router<Stack<Calls, Identity>> {
    Server::builder()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
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
