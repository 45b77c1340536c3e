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
            // gRPC reads it as PERMISSION_DENIED. What is on its way is thrown away.
            (Self::GrpcServer(_), Some(_)) => Err(BodyError::CutCall(h2::Reason::INADEQUATE_SECURITY.into())),
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
    use super::*;

    #[test]
    fn a_caller_who_sees_no_trailers_does_not_take_a_cut_answer_for_a_whole_one() {
        let end = |has_trailers, trailers| Origin::Agent { has_trailers }.pass(Frame::trailers(trailers));
        assert!(end(true, denial_trailers("abc-1")).is_ok());
        assert!(matches!(end(false, denial_trailers("abc-1")), Err(BodyError::Cut)));
        assert!(end(false, HeaderMap::new()).is_ok());
    }
}
