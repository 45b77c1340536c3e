//! Message bodies on their way through: counted, their trailers stripped, and broken off when they are cut.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::exchange::Link;
use super::headers::{DECISION, OBS_TEXT, hold_obs_text, scrub_trailers, scrub_undecided};
use super::http1::LinkPool;
use super::http2::StreamLease;
use super::meter::{Broken, Direction, Meter};
use super::origin::{Origin, is_denial};
use crate::connections::{DecidedFields, Leave, Passage};

/// Why a body ends before its end.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    /// It is no longer allowed.
    #[error("the exchange is no longer allowed")]
    Cut,
    /// It is no longer allowed, which the code of a reset can say to its caller.
    #[error("the call is no longer allowed")]
    CutCall(#[source] h2::Error),
    /// Its trailers hold bytes beyond ASCII.
    #[error("{}", super::headers::WHY_NO_OBS_TEXT)]
    ObsText,
    /// The side that it comes from failed.
    #[error("the other side broke off")]
    Broken(#[from] hyper::Error),
}

/// The body of a request that is passed on.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Option<Metered>,
    /// What is kept until the body has ended, which may be after the response has: as long as bytes pass, they can be
    /// cut.
    under: Option<Under>,
}

/// What a request was decided by.
#[derive(Debug)]
enum Under {
    /// By the called node's agent.
    Passage(Arc<Passage>),
    /// By the caller's, since it leaves the mesh.
    Leave(Arc<Leave>),
}

impl Under {
    fn takes_obs_text(&self) -> bool {
        match self {
            Self::Passage(passage) => passage.takes_obs_text(),
            Self::Leave(_) => false,
        }
    }

    fn decided_fields(&self) -> DecidedFields {
        match self {
            Self::Passage(passage) => passage.decided_fields(),
            Self::Leave(leave) => leave.decided_fields(),
        }
    }
}

/// The body of a response: our own, or one that is passed on. `G` is dropped when the response has ended.
#[derive(Debug)]
pub(crate) enum ResponseBody<G> {
    /// A few words of our own, or nothing.
    Own(Option<Bytes>),
    /// Another's.
    Relayed(Box<Relay<G>>),
}

/// A response that is passed on.
#[derive(Debug)]
pub(crate) struct Relay<G> {
    body: Option<Metered>,
    meter: Arc<Meter>,
    via: Via,
    origin: Origin,
    _guard: G,
}

/// What has to be kept, and moved, while a response comes.
#[derive(Debug)]
pub(crate) enum Via {
    /// A link, which goes back to its pool.
    Link(Option<Link>, Arc<LinkPool>),
    /// A link that is closed afterwards.
    Once(Option<Link>),
    /// A stream of an HTTP/2 connection that has a task of its own.
    Stream {
        /// Counts it.
        _lease: StreamLease,
    },
}

#[derive(Debug)]
struct Metered {
    body: Incoming,
    meter: Arc<Meter>,
    direction: Direction,
    /// What it says of decisions is another agent's word.
    is_from_agent: bool,
}

impl RequestBody {
    /// Passes `body` on.
    pub(crate) fn relay(body: Incoming, meter: Arc<Meter>) -> Self {
        // A body that has ended already needs no watching over, and may be sent a second time.
        let is_empty = body.is_end_stream();
        let body =
            (!is_empty).then_some(Metered { body, meter, direction: Direction::In, is_from_agent: false });
        Self { body, under: None }
    }

    /// Keeps `passage` under way until the body has ended.
    pub(crate) fn under(mut self, passage: &Arc<Passage>) -> Self {
        self.under = self.body.is_some().then(|| Under::Passage(Arc::clone(passage)));
        self
    }

    /// The same of what leaves the mesh.
    pub(crate) fn leaving(mut self, leave: &Arc<Leave>) -> Self {
        self.under = self.body.is_some().then(|| Under::Leave(Arc::clone(leave)));
        self
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self { body: None, under: None }
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_none()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // hyper lets go of a body as soon as it has all of it; by its length, where that is known.
        if let Some(metered) = &self.body {
            if metered.body.is_end_stream() {
                metered.meter.note_whole();
            }
            metered.meter.sent();
        }
    }
}

impl Via {
    /// The link, for another use than going back to its pool.
    pub(crate) fn into_link(self) -> Option<Link> {
        match self {
            Self::Link(link, _) | Self::Once(link) => link,
            Self::Stream { .. } => None,
        }
    }
}

impl<G> ResponseBody<G> {
    /// Passes `body` on, by way of what it comes from.
    pub(crate) fn relay(body: Incoming, meter: Arc<Meter>, via: Via, guard: G, origin: Origin) -> Self {
        let is_from_agent = matches!(origin, Origin::Agent { .. });
        meter.set_answering(true);
        let body =
            Some(Metered { body, meter: Arc::clone(&meter), direction: Direction::Out, is_from_agent });
        Self::Relayed(Box::new(Relay { body, meter, via, origin, _guard: guard }))
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self::Own(None)
    }

    /// These words.
    pub(crate) fn text(text: String) -> Self {
        Self::Own(Some(Bytes::from(text)))
    }
}

impl Metered {
    /// `cx` is who waits; `inner` is what the body itself may wake.
    fn poll_frame(
        &mut self,
        cx: &Context<'_>,
        inner: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.meter.poll_cut(self.direction, cx.waker()) {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let mut frame = match ready!(Pin::new(&mut self.body).poll_frame(inner)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                match self.direction {
                    Direction::In => self.meter.leave("request_broken_off"),
                    Direction::Out => self.note_broken(&error),
                }
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                if self.direction == Direction::In {
                    self.meter.note_whole();
                }
                return Poll::Ready(None);
            }
        };
        // What came in while it was being cut may have been sent after that was told to be done.
        if self.meter.is_cut() {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        if let Some(data) = frame.data_ref() {
            self.meter.count(self.direction, data.len());
        } else if let Some(trailers) = frame.trailers_mut() {
            self.meter.note_grpc_status(trailers);
            let decision = self.is_from_agent.then(|| trailers.remove(DECISION)).flatten();
            scrub_trailers(trailers);
            if let Some(decision) = decision {
                self.meter.note_decision(decision.to_str().unwrap_or_default());
                trailers.insert(DECISION, decision);
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn note_broken(&self, error: &hyper::Error) {
        if self.is_from_agent && is_denial(error) {
            self.meter.note_denied_call();
            self.meter.break_off(Broken::Denied);
        } else {
            self.meter.break_off(Broken::Off);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, under } = self.get_mut();
        let Some(metered) = body else { return Poll::Ready(None) };
        let waker = cx.waker().clone();
        let mut polled = metered.poll_frame(cx, &mut Context::from_waker(&waker));
        if let (Poll::Ready(Some(Ok(frame))), Some(under)) = (&mut polled, under)
            && let Some(trailers) = frame.trailers_mut()
        {
            let decided = under.decided_fields();
            scrub_undecided(trailers, |field| decided.hold(field));
            if !under.takes_obs_text() && hold_obs_text(trailers) {
                metered.meter.leave(OBS_TEXT);
                return Poll::Ready(Some(Err(BodyError::ObsText)));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|metered| metered.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), |metered| metered.body.size_hint())
    }
}

impl<G: Unpin> Body for ResponseBody<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Relayed(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Relayed(relay) => relay.body.as_ref().is_none_or(|metered| metered.body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Relayed(relay) => {
                relay.body.as_ref().map_or(SizeHint::with_exact(0), |metered| metered.body.size_hint())
            }
        }
    }
}

impl<G> Relay<G> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(metered) = &mut self.body else { return Poll::Ready(None) };
        let is_from_agent = metered.is_from_agent;
        let polled = match &mut self.via {
            Via::Link(Some(link), _) | Via::Once(Some(link)) => {
                // Only the link feeds the body.
                link.drive_and_read(cx, |cx| metered.poll_frame(cx, &mut Context::from_waker(Waker::noop())))
            }
            Via::Link(None, _) | Via::Once(None) | Via::Stream { .. } => {
                let waker = cx.waker().clone();
                metered.poll_frame(cx, &mut Context::from_waker(&waker))
            }
        };
        Poll::Ready(match ready!(polled) {
            Some(Ok(frame)) => Some(self.origin.pass(frame)),
            Some(Err(BodyError::Cut)) => Some(self.end_cut()),
            // hyper passes the code of a reset on, and by this one an agent's word would be read.
            Some(Err(BodyError::Broken(error))) if !is_from_agent && is_denial(&error) => {
                Some(Err(BodyError::Cut))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                self.finish();
                None
            }
        })
    }

    fn end_cut(&mut self) -> Result<Frame<Bytes>, BodyError> {
        let end = self.origin.end(self.meter.decision());
        match &end {
            Ok(_) => {
                self.meter.note_denied_call();
                // Nothing is read from here on.
                self.body = None;
            }
            Err(BodyError::CutCall(_)) => self.meter.note_denied_call(),
            Err(_) => {}
        }
        end
    }

    fn finish(&mut self) {
        let link = match &mut self.via {
            Via::Link(link, pool) => link.take().map(|link| (link, pool)),
            Via::Once(_) | Via::Stream { .. } => None,
        };
        if let Some((link, _)) = &link {
            link.rest();
        }
        // The body first: a link is free again only when nobody reads from it.
        self.body = None;
        if let Some((link, pool)) = link {
            pool.put(link);
        }
    }
}

impl<G> Drop for Relay<G> {
    fn drop(&mut self) {
        // hyper does not read past the last byte of a body of known length.
        self.finish();
        self.meter.set_answering(false);
    }
}
