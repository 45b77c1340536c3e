//! Stable reasons of refusals, for programs that act on them: google.rpc.ErrorInfo in the details of a gRPC status.

use prost::Message;
use tonic::Code;

use crate::sds::google::rpc::{ErrorInfo, Status};

/// The domain of our reasons.
pub const DOMAIN: &str = "hauberk";

/// The control plane has no record of the instance that a certificate belongs to: nothing is renewed for it.
pub const NOT_ON_RECORD: &str = "NOT_ON_RECORD";

/// Of an agent that asks for a workload: no enrollment of this name has its node as the parent.
pub const NOT_ENROLLED: &str = "NOT_ENROLLED";

/// The names that a certificate would have include one of the control plane's own: nobody else is given those.
pub const NAME_OF_CONTROL_PLANE: &str = "NAME_OF_CONTROL_PLANE";

/// Of a program: no enrollment has the virtual node of the agent that it asked as its parent.
pub const NO_ENROLLMENT: &str = "NO_ENROLLMENT";

/// Of a program: there are enrollments, and of each of them a selector is not true of it.
pub const SELECTOR_MISSING: &str = "SELECTOR_MISSING";

/// Of a program: the agent that it asked is itself refused by everybody.
pub const AGENT_REFUSED: &str = "AGENT_REFUSED";

/// Of a program: the control plane does not let the agent that it asked vouch for it, or not any longer.
pub const NOT_VOUCHED_FOR: &str = "NOT_VOUCHED_FOR";

/// Of a program: it has identities, and not the one that it named.
pub const NOT_ITS_IDENTITY: &str = "NOT_ITS_IDENTITY";

/// Of a program, which may ask again: the agent that it asked has not joined yet.
pub const NOT_JOINED: &str = "NOT_JOINED";

/// Of a program, which may ask again: the certificate of the agent that it asked has ended, and there is no other yet.
pub const CERTIFICATE_ENDED: &str = "CERTIFICATE_ENDED";

/// What words about an instance end with whom no certificate is believed any longer.
pub const BY_EVERYBODY: &str = ": everybody refuses it";

/// What is wrong with a resource that a change holds twice; `first` is the place of the other one.
pub fn held_twice(what: &str, first: usize) -> String {
    format!("{what}{HELD}{first}]")
}

/// What that is about, and the place.
pub fn first_of_twice(message: &str) -> Option<(&str, usize)> {
    let (what, first) = message.strip_suffix(']')?.rsplit_once(HELD)?;
    Some((what, first.parse().ok()?))
}

const HELD: &str = " is already resources[";

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// A refusal with a reason.
pub fn with_reason(code: Code, reason: &str, message: &str) -> tonic::Status {
    let info = ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned() };
    let detail = prost_types::Any { type_url: ERROR_INFO.to_owned(), value: info.encode_to_vec() };
    let details = Status { code: code as i32, message: message.to_owned(), details: vec![detail] };
    tonic::Status::with_details(code, message, details.encode_to_vec().into())
}

/// The reason in a status; `None` where it has none of ours.
pub fn reason(status: &tonic::Status) -> Option<String> {
    let Status { details, .. } = Status::decode(status.details()).ok()?;
    let info = details.iter().find(|detail| detail.type_url == ERROR_INFO)?;
    let ErrorInfo { reason, domain } = ErrorInfo::decode(&*info.value).ok()?;
    (domain == DOMAIN).then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_holds_twice_is_read_back() {
        assert_eq!(first_of_twice(&held_twice("Policy shop/p", 12)), Some(("Policy shop/p", 12)));
        assert_eq!(first_of_twice("Policy shop/p is already there"), None);
    }

    #[test]
    fn a_reason_is_read_back() {
        let status = with_reason(Code::PermissionDenied, SELECTOR_MISSING, "no identity issued");
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
        assert_eq!(reason(&status).as_deref(), Some(SELECTOR_MISSING));
        assert_eq!(reason(&tonic::Status::permission_denied("no identity issued")), None);
    }
}
