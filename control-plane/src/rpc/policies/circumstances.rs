//! What a question about policies says of the caller's connection, the time and the request's head.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId, UnixMillis};
use hauberk_policy::{
    Caller, Engine, Gathered, Given, HeaderLines, Moment, OnBehalfOf, Origin, Peer, Tls, node_named,
};
use hauberk_proto::admin::v1::CheckRequest;
use http::HeaderName;
use serde_json::{Map, Value};
use tonic::Status;

use super::mesh::Mesh;
use crate::resources::{Kind, did_you_mean};
use crate::rpc::status;

/// What does not depend on what is asked for.
pub(super) struct Circumstances {
    /// What the question says, completed by what holds between agents of this release: who proves nothing shows no certificate, and
    /// may speak no TLS.
    pub(super) peer: Peer,
    pub(super) moment: Moment,
    /// What it says and nothing more.
    given: Given,
}

impl Circumstances {
    /// Reads what the question says.
    pub(super) fn of(request: &CheckRequest, caller: &Caller, now: UnixMillis) -> Result<Self, Status> {
        let CheckRequest { address, at, certificate_age_s, tls_group, headers, .. } = request;
        if let Some(wrong) =
            headers.iter().find(|lines| HeaderName::from_bytes(lines.name.as_bytes()).is_err())
        {
            let message = format!("{:?} is no name of a header field", wrong.name);
            return Err(status::bad_field("headers", message));
        }
        let address: Option<IpAddr> = match address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| status::bad_field("address", "this is no IP address"))?),
        };
        let at = at.as_ref().map(|at| {
            let seconds = u64::try_from(at.seconds).unwrap_or_default();
            UnixMillis::from_secs(seconds)
                .plus(Duration::from_nanos(u64::try_from(at.nanos).unwrap_or_default()))
        });
        let certificate_age = certificate_age_s.map(Duration::from_secs);
        let time = at.unwrap_or(now);
        let proves = *caller != Caller::Anonymous;
        let certificate_since = proves.then(|| time.minus(certificate_age.unwrap_or_default()));
        let tls = |group: &str| Tls { version: "TLSv1.3".into(), group: group.into() };
        let told = Some(tls_group.as_str()).filter(|group| !group.is_empty()).map(tls);
        let assumed = told.clone().or_else(|| proves.then(|| tls("X25519MLKEM768")));
        Ok(Self {
            peer: Peer::new(address, assumed),
            moment: Moment { time, certificate_since },
            given: Given { address, tls: told, time: at, certificate_age, ..Given::default() },
        })
    }

    /// What the question says, of what a node's agents would gather from the request.
    pub(super) fn given(&self, request: &CheckRequest, gathered: &Gathered) -> Given {
        let is_told = |lines: &&HeaderLines| {
            let has_lines = lines.values.as_ref().is_none_or(|values| !values.is_empty());
            has_lines || request.headers.iter().any(|told| told.name.eq_ignore_ascii_case(&lines.name))
        };
        Given {
            host: gathered.host().filter(|_| !request.host.is_empty()).map(str::to_owned),
            headers: gathered.headers().iter().filter(is_told).cloned().collect(),
            made_for: Some(gathered.on_behalf_of().clone())
                .filter(|_| request.without_user || !request.user.is_empty()),
            ..self.given.clone()
        }
    }
}

/// What the node's agents would gather of such a request.
pub(super) fn gathered(request: &CheckRequest, engine: &Engine, port: u16) -> Gathered {
    let CheckRequest { target, host, headers, .. } = request;
    let host = if host.is_empty() { target } else { host };
    let lines = headers.iter().flat_map(|lines| {
        let unreadable = lines.unreadable.then_some(&b"\xff"[..]);
        let values = lines.values.iter().map(String::as_bytes).chain(unreadable);
        values.map(|value| (lines.name.as_str(), value))
    });
    engine.wanted(port).map(|wanted| wanted.gather(host, lines)).unwrap_or_default()
}

/// Whom the request says that it is made for, as agents would read such a token.
pub(super) fn on_behalf_of(
    request: &CheckRequest,
    mesh: &Mesh<'_>,
    engine: &Engine,
) -> Result<OnBehalfOf, Status> {
    let CheckRequest { user, claims, actors, without_user, .. } = request;
    if user.is_empty() {
        let beside = [("claims", !claims.is_empty()), ("actors", !actors.is_empty())];
        return match beside.into_iter().find(|(_, is_told)| *is_told) {
            Some((field, _)) => Err(status::bad_field(field, "of which user? Name one: alice@ISSUER")),
            None => Ok(OnBehalfOf::Nobody),
        };
    }
    if *without_user {
        return Err(status::bad_field("withoutUser", "a user is named, and none is said to be there"));
    }
    let wrong = |message: String| status::bad_field("user", message);
    let (id, issuer) = user.rsplit_once('@').ok_or_else(|| wrong("write alice@ISSUER".to_owned()))?;
    let found = mesh.resources.issuers().find(|(name, ..)| name.as_str() == issuer);
    let (name, found, _) = found.ok_or_else(|| {
        let known = mesh.resources.of_kind(Kind::JwtIssuer).keys().map(Name::as_str);
        let hint = did_you_mean(issuer, known).map(|hint| format!("; {hint}")).unwrap_or_default();
        wrong(format!("mesh {} has no JwtIssuer {issuer:?}{hint}", mesh.name))
    })?;
    let mut claimed: Map<String, Value> = match claims.as_str() {
        "" => Map::new(),
        text => serde_json::from_str(text).map_err(|error| status::bad_field("claims", error))?,
    };
    claimed.insert(found.claims().user.clone(), Value::String(id.to_owned()));
    let user = found
        .claims()
        .user(&claimed, engine.claims_read(), name, &Arc::from(found.issuer()))
        .map_err(|error| status::bad_field("claims", error))?;
    let actors = actors.iter().map(|actor| node_named(mesh.trust_domain, mesh.name, actor));
    let actors: Result<Vec<SpiffeId>, _> = actors.collect();
    let actors = actors.map_err(|bad| status::bad_field("actors", bad.message))?;
    Ok(OnBehalfOf::User(Arc::new(Origin { user, actors })))
}
