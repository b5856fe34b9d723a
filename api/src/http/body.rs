//! What answers are made of.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::events::Subscription;
use super::stream::Progress;

/// The body of an answer. Its end, or its being dropped, is the end of the request.
pub(super) struct AnswerBody {
    content: Content,
    progress: Arc<Progress>,
}

enum Content {
    Whole(Bytes),
    /// A line per event, each a frame of its own, so that it is sent at once.
    Events {
        subscription: Subscription,
        /// Held for its drop.
        _slot: OwnedSemaphorePermit,
    },
}

impl AnswerBody {
    pub(super) fn whole(bytes: Bytes, progress: Arc<Progress>) -> Self {
        Self { content: Content::Whole(bytes), progress }
    }

    pub(super) fn events(
        subscription: Subscription,
        slot: OwnedSemaphorePermit,
        progress: Arc<Progress>,
    ) -> Self {
        Self { content: Content::Events { subscription, _slot: slot }, progress }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut self.content {
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then_some(bytes)
            }
            Content::Events { subscription, .. } => ready!(subscription.poll_next(cx)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Events { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Events { .. } => SizeHint::default(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.progress.end();
    }
}
