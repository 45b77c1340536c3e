//! What is recorded of calls that leave the mesh.

use hauberk_identity::{Name, Serial};
use hauberk_policy::{Caller, Moment, Peer};

use super::super::passage::Subject;
use super::super::rules::Ruling;
use super::Destination;
use crate::decisions::{self, Facts, LeavesTo};
use crate::mesh::ViewStamp;

pub(super) fn facts<'a>(
    (view, external): (Option<&'a ViewStamp>, Option<&'a Name>),
    (caller, serial): &'a (Caller, Serial),
    (to, peer): (&'a Destination, &'a Peer),
    subject: &'a Subject,
    (ruling, moment): (&'a Ruling, Moment),
) -> Facts<'a> {
    let (request, query) = match subject {
        Subject::Request { method, target, is_upgrade, .. } => {
            let (method, path) = (method.as_str(), target.path());
            (decisions::Request::Http { method, path, is_upgrade: *is_upgrade }, target.query())
        }
        Subject::Stream => (decisions::Request::Connect, None),
    };
    Facts {
        view,
        caller,
        caller_serial: Some(*serial),
        peer_address: to.app,
        peer,
        moment,
        port: to.port,
        service: "",
        leaves_to: Some(LeavesTo { external: external.map_or("", Name::as_str), host: &to.host }),
        request,
        query,
        gathered: subject.gathered(),
        ruling: ruling.as_told(),
    }
}
