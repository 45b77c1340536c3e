//! What one stream of discovery requests has asked for, and what it was answered (Envoy's xDS protocol, state of the
//! world).

use std::collections::BTreeSet;

use hauberk_proto::sds::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

use super::super::answers::Encoded;
use super::super::given::Given;
use super::super::pieces::{Content, Piece, field};
use super::secrets::{self, TYPE_URL, any};

/// The number of the field of an answer that holds secrets.
const RESOURCES: u8 = 2;

/// The most names of one stream: of what a caller is given there is less.
const MOST_NAMES: usize = 64;

/// How much is logged of what a client writes, in characters.
const LONGEST_LOGGED: usize = 512;

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    wanted: Option<Wanted>,
    /// How many answers were sent: the version and the nonce of the last one.
    answers: u64,
    /// What tells the secrets in the last answer from others, so that no copy of a key is kept for a comparison.
    sent: Option<Content>,
    /// Who asks, as it calls itself.
    node: String,
    absent: BTreeSet<String>,
}

/// Which secrets.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// No name was ever said.
    Everything,
    /// These; none at all where all were given up.
    Named(BTreeSet<String>),
}

impl Subscription {
    /// Whether anything was asked for.
    pub(super) fn has_begun(&self) -> bool {
        self.wanted.is_some()
    }

    /// Takes a request; whether it asks for something that was not answered yet.
    ///
    /// # Errors
    /// It asks for something that is no secret, or for too many.
    pub(super) fn take(&mut self, request: DiscoveryRequest) -> Result<bool, Status> {
        let DiscoveryRequest {
            version_info: _,
            node,
            resource_names,
            type_url,
            response_nonce,
            error_detail,
        } = request;
        if !type_url.is_empty() && type_url != TYPE_URL {
            return Err(Status::invalid_argument(format!("this service has only {TYPE_URL}")));
        }
        if let Some(node) = node {
            self.node = shortened(&node.id);
        }
        if self.answers > 0 && response_nonce != self.nonce() {
            // It was written before the last answer was read, and whoever reads that writes again.
            return Ok(false);
        }
        if let Some(error) = error_detail {
            tracing::warn!(
                event = "sds_rejected",
                node = self.node,
                version = self.answers,
                error = shortened(&error.message),
                "Envoy refuses what it was given, and is given nothing else until that changes"
            );
        }
        if resource_names.len() > MOST_NAMES {
            return Err(Status::invalid_argument(format!(
                "at most {MOST_NAMES} secrets are given to one stream"
            )));
        }
        let names: BTreeSet<String> = resource_names.into_iter().filter(|name| !name.is_empty()).collect();
        let is_everything = names.is_empty() && matches!(self.wanted, None | Some(Wanted::Everything));
        let wanted = Some(if is_everything { Wanted::Everything } else { Wanted::Named(names) });
        if self.wanted == wanted {
            return Ok(false);
        }
        self.wanted = wanted;
        // What was given up may have been forgotten, so that it is sent again if it is asked for again.
        self.sent = None;
        Ok(true)
    }

    /// The answer to what was asked for; `None` where the client has it already, or there is nothing of it: an empty
    /// answer is one that Envoy refuses.
    ///
    /// # Errors
    /// It is longer than any message.
    pub(super) fn answer(&mut self, given: &Given) -> Result<Option<Encoded>, Status> {
        let resources = self.resources(given);
        let sent = Content::of(&resources, given.revocation_lists.number);
        if resources.is_empty() || self.sent.as_ref() == Some(&sent) {
            return Ok(None);
        }
        self.sent = Some(sent);
        self.answers += 1;
        self.response(resources, given).map(Some)
    }

    /// The answer where only one is given, whatever is in it.
    ///
    /// # Errors
    /// It is longer than any message.
    pub(super) fn whole_answer(mut self, given: &Given) -> Result<Encoded, Status> {
        let resources = self.resources(given);
        self.answers = 1;
        self.response(resources, given)
    }

    fn response(&self, resources: Vec<Piece>, given: &Given) -> Result<Encoded, Status> {
        let (nonce, type_url) = (self.nonce(), TYPE_URL.to_owned());
        let others =
            DiscoveryResponse { version_info: nonce.clone(), resources: Vec::new(), type_url, nonce };
        let pieces = [Piece::of(&others)].into_iter().chain(resources).collect();
        Encoded::of_pieces(pieces, given.revocation_lists.number)
    }

    fn nonce(&self) -> String {
        self.answers.to_string()
    }

    /// The secrets, as fields of an answer.
    fn resources(&mut self, given: &Given) -> Vec<Piece> {
        let names: BTreeSet<String> = match &self.wanted {
            None => BTreeSet::new(),
            Some(Wanted::Everything) => secrets::all_names(given).collect(),
            Some(Wanted::Named(names)) => names.clone(),
        };
        let (mut resources, mut absent) = (Vec::new(), BTreeSet::new());
        for name in names {
            match secrets::named(given, &name) {
                Some(secret) => resources.extend(packed(secret)),
                None => {
                    resources.extend(secrets::nobody(&name).into_iter().flat_map(packed));
                    absent.insert(shortened(&name));
                }
            }
        }
        if !absent.is_subset(&self.absent) {
            tracing::warn!(
                event = "sds_secret_absent",
                node = self.node,
                names = shortened(&absent.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
                "a program asks for secrets that it is not given: names are default, ROOTCA, ALL, its own SPIFFE ids, its trust \
                 domain, and those that its enrollments name (`federatesWith`) and that are followed"
            );
        }
        self.absent = absent;
        resources
    }
}

fn packed(secret: Vec<Piece>) -> Vec<Piece> {
    field(RESOURCES, any(TYPE_URL, secret))
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_LOGGED).collect()
}
