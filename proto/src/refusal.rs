//! Stable reasons of refusals, for programs that act on them: google.rpc.ErrorInfo in the details of a gRPC status.

use prost::Message;

use crate::sds::google::rpc::{ErrorInfo, Status};

/// The domain of our reasons.
pub const DOMAIN: &str = "hauberk";

/// The control plane has no record of the instance that a certificate belongs to: nothing is renewed for it.
pub const NOT_ON_RECORD: &str = "NOT_ON_RECORD";

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// The reason in a status; `None` where it has none of ours.
pub fn reason(status: &tonic::Status) -> Option<String> {
    let Status { details, .. } = Status::decode(status.details()).ok()?;
    let info = details.iter().find(|detail| detail.type_url == ERROR_INFO)?;
    let ErrorInfo { reason, domain } = ErrorInfo::decode(&*info.value).ok()?;
    (domain == DOMAIN).then_some(reason)
}
