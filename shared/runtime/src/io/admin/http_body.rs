//! Answers as HTTP carries them, whole or piece by piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use tokio::sync::mpsc;

use super::message::{AdminBody, AdminResponse};

pub(super) fn to_http(answer: AdminResponse) -> Response<HttpBody> {
    let mut response = Response::new(match answer.body {
        AdminBody::Whole(bytes) => Either::Left(Full::new(bytes)),
        AdminBody::Pieces(pieces) => Either::Right(StreamBody::new(Pieces(pieces))),
    });
    // What is seen here is true now and nothing to keep.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}

pub(super) type HttpBody = Either<Full<Bytes>, StreamBody<Pieces>>;

/// Frames of a body out of a channel.
pub(super) struct Pieces(mpsc::Receiver<Bytes>);

impl Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}
