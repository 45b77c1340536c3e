//! What a caller is told, and whoever runs the app, when the app gave no answer that could be passed on.

use http::StatusCode;

use super::app::NoConnection;
use super::http::Answer;
use super::listener::Port;
use crate::wire::answer::{self, Form};
use crate::wire::headers::UNKNOWN_CODING;
use crate::wire::http1::SendError;

/// Why the app gave no answer.
pub(super) enum AppFailure {
    NoConnection(NoConnection),
    Unspoken,
    Broken,
    BadUpgrade,
    UnknownCoding,
    /// It is not to blame: the request came to no end, for this reason.
    CallerLeft(&'static str),
}

impl AppFailure {
    pub(super) fn of(error: SendError<Self>, port: &Port) -> Self {
        match error {
            SendError::Connect(failure, _) => failure,
            SendError::Broken(error) | SendError::Unsent(error, _) => {
                tracing::debug!(event = "app_broke_off", port = port.number, %error);
                Self::Broken
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
            Self::Broken => (StatusCode::BAD_GATEWAY, "app_broke_off"),
            Self::BadUpgrade => (StatusCode::BAD_GATEWAY, "unasked_upgrade"),
            Self::UnknownCoding => (StatusCode::BAD_GATEWAY, UNKNOWN_CODING),
        };
        tracing::warn!(event = name, port = port.number, app = %port.app);
        answer::error(form, status, name, "")
    }
}
