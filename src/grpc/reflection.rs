//! Reflection, in both versions that clients speak; its streams end when the server does.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body, service::RoutesBuilder};
use tonic_reflection::server::Builder;

use super::proto;
use crate::error::{Error, Result};

/// Adds reflection over our services, health, and the error details, so that clients can print those.
pub(super) fn add(routes: &mut RoutesBuilder) -> Result<()> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    routes.add_service(builder().build_v1().map_err(|cause| Error::Internal(cause.into()))?);
    routes.add_service(builder().build_v1alpha().map_err(|cause| Error::Internal(cause.into()))?);
    Ok(())
}

/// Lets the requests of a reflection stream end at the token. The service ends its answers when its requests end, and
/// by nothing else: a client that keeps its stream open would hold the drain.
pub(super) fn end_at(token: CancellationToken, body: Body) -> Body {
    Body::new(Ending { ended: Box::pin(token.cancelled_owned()), body })
}

struct Ending {
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    body: Body,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.ended.as_mut().poll(cx));
        Poll::Ready(None)
    }
}
