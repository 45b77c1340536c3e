//! How an answer ends that is cut: as a denial where that can still be told, and otherwise so that it never looks complete.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::Frame;

use super::answer::{denial_trailers, ends_by_trailers};
use super::body::BodyError;
use super::headers::DECISION;

/// Whose answer is passed on, which says how it ends when it may not go on.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A server's: it is broken off, so that it does not look complete.
    Server,
    /// A gRPC server's: it ends by trailers, unless content is still on its way that the trailers would have to wait for. Each
    /// piece of that holds on to this.
    GrpcServer(Arc<()>),
    /// That of the called node's agent, whose trailers may name a decision.
    Agent {
        /// The caller gets to see them.
        has_trailers: bool,
    },
}

/// Content that is on its way to a caller.
struct OnItsWay {
    content: Bytes,
    _counted: Arc<()>,
}

/// gRPC reads it as PERMISSION_DENIED.
const DENIED: h2::Reason = h2::Reason::INADEQUATE_SECURITY;

/// Whether an agent has ended a call so.
pub(super) fn is_denial(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_remote() && cause.reason() == Some(DENIED))
}

impl Origin {
    /// An app behind this agent, which answers with this head to a caller who speaks `version`.
    pub(crate) fn app(version: Version, head: &HeaderMap) -> Self {
        if ends_by_trailers(version, head) { Self::GrpcServer(Arc::default()) } else { Self::Server }
    }

    /// The called node's agent. The rest is the same.
    pub(crate) fn agent(version: Version, head: &HeaderMap) -> Self {
        Self::Agent { has_trailers: ends_by_trailers(version, head) }
    }

    /// Lets a frame of the answer pass.
    pub(super) fn pass(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        match self {
            Self::GrpcServer(counted) => Ok(frame
                .map_data(|content| Bytes::from_owner(OnItsWay { content, _counted: Arc::clone(counted) }))),
            Self::Agent { has_trailers: false }
                if frame.trailers_ref().is_some_and(|trailers| trailers.contains_key(DECISION)) =>
            {
                Err(BodyError::Cut)
            }
            Self::Server | Self::Agent { .. } => Ok(frame),
        }
    }

    /// How the answer ends that was cut by this decision, or because of its connection.
    pub(super) fn end(&self, decision: Option<&str>) -> Result<Frame<Bytes>, BodyError> {
        match (self, decision) {
            (Self::GrpcServer(counted), Some(decision)) if Arc::strong_count(counted) == 1 => {
                Ok(Frame::trailers(denial_trailers(decision)))
            }
            // What is on its way is thrown away.
            (Self::GrpcServer(_), Some(_)) => Err(BodyError::CutCall(DENIED.into())),
            _ => Err(BodyError::Cut),
        }
    }
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use hyper::client::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::DuplexStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;
    use tokio_util::task::TaskTracker;

    use super::super::body::{RequestBody, ResponseBody, Via};
    use super::super::http2::server;
    use super::super::meter::{Broken, Meter};
    use super::super::tasks::Tasks;
    use super::*;

    /// Whose answer it is, by its head.
    type Of = fn(Version, &HeaderMap) -> Origin;

    /// What is noted of an answer that somebody breaks off by this reset, and by which code it is broken off then.
    async fn noted(reason: h2::Reason, of: Of) -> (Option<Broken>, Option<u8>, Option<h2::Reason>) {
        noted_over(reason, &[of]).await
    }

    /// What asks over this stream.
    async fn ask(stream: DuplexStream, serving: &mut JoinSet<()>) -> Response<Incoming> {
        let tasks = Tasks::new(TaskTracker::new());
        let (mut sender, connection) = http2::handshake(tasks, TokioIo::new(stream)).await.unwrap();
        serving.spawn(async move { drop(connection.await) });
        let request = Request::get("http://orders/").body(RequestBody::empty()).unwrap();
        sender.send_request(request).await.unwrap()
    }

    /// The same over these, one behind the other: what the last of them notes.
    async fn noted_over(reason: h2::Reason, hops: &[Of]) -> (Option<Broken>, Option<u8>, Option<h2::Reason>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (come, has_come) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            tokio::select! {
                _ = connection.accept() => {}
                come = has_come => come.unwrap(),
            }
            answer.send_reset(reason);
            while connection.accept().await.is_some() {}
        });
        let [first, rest @ ..] = hops else { panic!("it is noted nowhere") };
        let (mut body, mut meter) = passed_on(ask(near, &mut serving).await, *first);
        for of in rest {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let once = Mutex::new(Some(Response::new(body)));
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = once.lock().unwrap().take();
                async move { answer.ok_or("it is asked once") }
            });
            let tasks = Tasks::new(TaskTracker::new());
            let served = server(tasks).serve_connection(TokioIo::new(far), service);
            serving.spawn(async move { drop(served.await) });
            (body, meter) = passed_on(ask(near, &mut serving).await, *of);
        }
        come.send(()).unwrap();
        let error = body.collect().await.err().unwrap();
        assert!(!meter.is_answering());
        (meter.broken(), meter.grpc_status(), reason_of(&error))
    }

    fn passed_on(answer: Response<Incoming>, of: Of) -> (ResponseBody<()>, Arc<Meter>) {
        let (head, content) = answer.into_parts();
        let (meter, origin) = (Arc::<Meter>::default(), of(head.version, &head.headers));
        let body = ResponseBody::relay(content, Arc::clone(&meter), Via::Once(None), (), origin);
        assert!(meter.is_answering());
        (body, meter)
    }

    /// The code that hyper passes on of an error.
    fn reason_of(error: &BodyError) -> Option<h2::Reason> {
        let first: &(dyn std::error::Error + 'static) = error;
        let mut causes = std::iter::successors(Some(first), |error| error.source());
        causes.find_map(|cause| cause.downcast_ref::<h2::Error>()).and_then(h2::Error::reason)
    }

    #[tokio::test]
    async fn a_call_that_an_agent_has_cut_by_a_reset_counts_as_denied() {
        let other = h2::Reason::INTERNAL_ERROR;
        assert_eq!(noted(DENIED, Origin::agent).await, (Some(Broken::Denied), Some(7), Some(DENIED)));
        assert_eq!(noted(other, Origin::agent).await, (Some(Broken::Off), None, Some(other)));
        // An app's resets are its own, and by none of them an agent's word is given.
        assert_eq!(noted(DENIED, Origin::app).await, (Some(Broken::Off), None, None));
        assert_eq!(noted(other, Origin::app).await, (Some(Broken::Off), None, Some(other)));
    }

    #[tokio::test]
    async fn an_app_that_resets_a_call_by_the_code_of_a_denial_does_not_speak_for_its_agent() {
        let (over_both, other) = ([Origin::app as Of, Origin::agent as Of], h2::Reason::INTERNAL_ERROR);
        for reason in [DENIED, other] {
            assert_eq!(noted_over(reason, &over_both).await, (Some(Broken::Off), None, Some(other)));
        }
        // Another code says what it says.
        let calm = h2::Reason::ENHANCE_YOUR_CALM;
        assert_eq!(noted_over(calm, &over_both).await, (Some(Broken::Off), None, Some(calm)));
        let between = [Origin::agent as Of, Origin::agent as Of];
        assert_eq!(noted_over(DENIED, &between).await, (Some(Broken::Denied), Some(7), Some(DENIED)));
    }

    #[test]
    fn a_caller_who_sees_no_trailers_does_not_take_a_cut_answer_for_a_whole_one() {
        let end = |has_trailers, trailers| Origin::Agent { has_trailers }.pass(Frame::trailers(trailers));
        assert!(end(true, denial_trailers("abc-1")).is_ok());
        assert!(matches!(end(false, denial_trailers("abc-1")), Err(BodyError::Cut)));
        assert!(end(false, HeaderMap::new()).is_ok());
    }
}
