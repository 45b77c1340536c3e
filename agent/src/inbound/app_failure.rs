//! What a caller is told, and whoever runs the app, when the app gave no answer that could be passed on.

use http::StatusCode;

use super::app::NoConnection;
use super::http::Answer;
use super::listener::Port;
use crate::wire::answer::{self, Form};
use crate::wire::causes::chain;
use crate::wire::headers::UNKNOWN_CODING;
use crate::wire::http1::SendError;

/// Why the app gave no answer.
pub(super) enum AppFailure {
    NoConnection(NoConnection),
    Unspoken,
    Broken(hyper::Error),
    /// What it sent is no answer.
    Unreadable(hyper::Error),
    BadUpgrade,
    UnknownCoding,
    /// It is not to blame: the request came to no end, for this reason.
    CallerLeft(&'static str),
}

impl AppFailure {
    pub(super) fn of(error: SendError<Self>) -> Self {
        match error {
            SendError::Connect(failure, _) => failure,
            SendError::Broken(error) | SendError::Unsent(error, _) => {
                if is_unreadable(&error) {
                    Self::Unreadable(error)
                } else {
                    Self::Broken(error)
                }
            }
        }
    }

    pub(super) fn answer(&self, form: Form, port: &Port) -> Answer {
        let (status, name) = match self {
            Self::NoConnection(failure) => {
                failure.log(port);
                return answer::error(form, StatusCode::SERVICE_UNAVAILABLE, failure.as_str(), "");
            }
            Self::CallerLeft(reason) => {
                return answer::error(form, StatusCode::BAD_REQUEST, reason, "");
            }
            Self::Unspoken => (StatusCode::SERVICE_UNAVAILABLE, "app_unreachable"),
            Self::Broken(_) => (StatusCode::BAD_GATEWAY, "app_broke_off"),
            Self::Unreadable(_) => (StatusCode::BAD_GATEWAY, "app_answer_unreadable"),
            Self::BadUpgrade => (StatusCode::BAD_GATEWAY, "unasked_upgrade"),
            Self::UnknownCoding => (StatusCode::BAD_GATEWAY, UNKNOWN_CODING),
        };
        let error = match self {
            Self::Broken(error) | Self::Unreadable(error) => Some(chain(error)),
            _ => None,
        };
        tracing::warn!(event = name, port = port.number, app = %port.app, error);
        answer::error(form, status, name, "")
    }
}

/// Whether the fault is in what was read, and not that it ended: in a head, or found by the library that reads frames.
fn is_unreadable(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    error.is_parse() || cause.is_some_and(h2::Error::is_library)
}
