//! Notification streams: one task per connection, which forwards documents until a side is silent or done.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::cas::{Cas, Pooled};
use super::client::OpenStream;
use super::connection::read_body;
use super::post::Repetition;
use super::sending::{Envelope, Shared, needs_streaming, retry_after};
use crate::calendar::{Input, StreamEnd};
use tandem_exchange::ews::{
    Failure, FailureClass, Operation, SchemaVersion, SplitError, StreamPart, StreamSplitter, parse_answer,
    parse_stream_document, write_request,
};

/// Dropping it closes the stream: `StreamEnded` with `Closed` follows.
#[derive(Debug)]
pub struct StreamHandle {
    _close: oneshot::Sender<()>,
}

pub(super) fn open(shared: Arc<Shared>, open: OpenStream, inputs: mpsc::Sender<Input>) -> StreamHandle {
    let (close, closed) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let stream = open.stream;
        let reader = StreamReader {
            shared,
            open,
            inputs: inputs.clone(),
        };
        let end = tokio::select! {
            _ = closed => StreamEnd::Closed,
            end = reader.run() => end,
        };
        // The receiver is gone when the node is stopping.
        let _ = inputs.send(Input::StreamEnded { stream, end }).await;
    });
    StreamHandle { _close: close }
}

struct StreamReader {
    shared: Arc<Shared>,
    open: OpenStream,
    inputs: mpsc::Sender<Input>,
}

impl StreamReader {
    async fn run(&self) -> StreamEnd {
        match self.read_to_end().await {
            Ok(end) => end,
            Err(failure) => StreamEnd::Failed(failure),
        }
    }

    async fn read_to_end(&self) -> Result<StreamEnd, Failure> {
        let cas = self.shared.cas(&self.open.cas)?;
        let too_many = || Failure::Unreachable("too many streams at this CAS".to_owned());
        let _permit = cas.streams.try_acquire().map_err(|_| too_many())?;
        let version = cas.version();
        let end = match timeout(self.open.read_timeout, self.ask(&cas, version)).await {
            Ok(asked) => match asked? {
                (_pooled, response) if response.status().is_success() => self.read(response).await,
                (_pooled, response) => Err(self.failure_of(response).await),
            },
            Err(_) => Ok(StreamEnd::Silent),
        };
        if let Err(failure) = &end
            && failure.class() == FailureClass::Version
        {
            // The next attempt uses the next lower version.
            let _ = cas.version_refused(version);
        }
        end
    }

    async fn ask(
        &self,
        cas: &Arc<Cas>,
        version: SchemaVersion,
    ) -> Result<(Pooled, Response<Incoming>), Failure> {
        let envelope = Envelope {
            cas: &self.open.cas,
            impersonate: Some(&self.open.anchor),
            affinity: &self.open.affinity,
        };
        if !version.has_streaming() {
            return Err(needs_streaming());
        }
        let body = write_request(&self.operation(), version, envelope.impersonate);
        let post = self.shared.post(&envelope, body);
        let answered = self
            .shared
            .send(cas, &self.shared.asker(), &post, Repetition::Harmless)
            .await?;
        self.shared.keep_cookies(&envelope, answered.1.headers());
        Ok(answered)
    }

    fn operation(&self) -> Operation {
        Operation::GetStreamingEvents {
            subscriptions: self.open.subscriptions.clone(),
            connection_timeout: self.open.connection_timeout,
        }
    }

    async fn read(&self, response: Response<Incoming>) -> Result<StreamEnd, Failure> {
        let mut body = response.into_body();
        let mut splitter = StreamSplitter::new(self.shared.options.stream_document_bytes_max);
        let mut read = 0u64;
        loop {
            let Ok(frame) = timeout(self.open.read_timeout, body.frame()).await else {
                return Ok(StreamEnd::Silent);
            };
            let broke_off = |why: &str| Failure::Unreachable(format!("the stream was lost: {why}"));
            let frame = frame.ok_or_else(|| broke_off("the CAS ended it"))?;
            let frame = frame.map_err(|error| broke_off(&error.to_string()))?;
            let Ok(bytes) = frame.into_data() else { continue };
            read = read.saturating_add(bytes.len() as u64);
            if read > self.shared.options.stream_bytes_max {
                return Ok(StreamEnd::Closed);
            }
            splitter.push(&bytes);
            if let Some(end) = self.forward_documents(&mut splitter).await? {
                return Ok(end);
            }
        }
    }

    async fn forward_documents(&self, splitter: &mut StreamSplitter) -> Result<Option<StreamEnd>, Failure> {
        while let Some(document) = splitter.next_document() {
            let document: Bytes = document.map_err(|error| match error {
                SplitError::TooLarge { .. } => Failure::TooLarge,
                SplitError::NotXml => Failure::Malformed("the stream does not consist of XML documents"),
                SplitError::DocumentTypeRefused => {
                    Failure::Malformed("a document type declaration is not accepted")
                }
            })?;
            for part in parse_stream_document(&document)? {
                if let Some(end) = self.forward(part).await {
                    return Ok(Some(end));
                }
            }
        }
        Ok(None)
    }

    /// Waits while the calendars are busy; meanwhile the CAS waits, too.
    async fn forward(&self, part: StreamPart) -> Option<StreamEnd> {
        let is_last = part == StreamPart::Closed;
        let stream = self.open.stream;
        let sent = self.inputs.send(Input::StreamPart { stream, part }).await;
        (is_last || sent.is_err()).then_some(StreamEnd::Closed)
    }

    async fn failure_of(&self, response: Response<Incoming>) -> Failure {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let bytes_max = self.shared.options.answer_bytes_max;
        let body = timeout(self.open.read_timeout, read_body(response.into_body(), bytes_max)).await;
        let Ok(Ok(body)) = body else {
            return Failure::Http { status, retry_after };
        };
        let parsed = parse_answer(&self.operation(), status, retry_after, &body);
        parsed
            .result
            .err()
            .unwrap_or(Failure::Http { status, retry_after })
    }
}
