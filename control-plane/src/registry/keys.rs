//! Where everything stands in the registry: the layout of all keys, in one place.
//!
//! ```text
//! installation                             trust domain, epoch, names of the server certificate
//! authority/root/<serial>                  a root: certificate and sealed key
//! authority/issuing/<serial>               an issuing authority: certificate and sealed key
//! authority/trust                          how often trust has changed
//! authority/request                        what waits to be signed by somebody else, and its sealed key
//! authority/view/<key id>                  a key that signs views, sealed
//! jwt-key/<key id>                         a key that signs JWT-SVIDs, sealed, and when it does
//! crl/<serial>/<part>                      the revocation list that an authority signed last, DER, in parts
//! resource/<kind>/<mesh>/<name>            a resource
//! federation/bundle/<mesh>/<trust domain>  the last good bundle of a trust domain that is followed
//! federation/keys/<mesh>/<issuer>          the last good keys of an issuer of users' tokens
//! federation/own                           which number our own bundle has, as others are told it
//! view/<kind>/<mesh>/<name>                a view's content, by digest, and the revision it got
//! token/<hash>                             a join token
//! token-use/<hash>/<key fingerprint>       who used it
//! attested/<enrollment uid>/<machine>/<key>  the instance that a machine's key became by evidence
//! attested-once/<attestor>/<machine>       the keys for which evidence counts that counts for one
//! issued/<serial>                          an issued certificate
//! issued-order/<newest first>/<serial>     the same, in order
//! instance/<instance id>                   a running agent and its latest certificate
//! trust-in-force/<instance id>             which version of trust it has acknowledged
//! admin/<name>                             an admin
//! login/<hash>                             a login token of an admin
//! audit/<newest first>                     an audit record of what an admin did
//! audit-issuance/<newest first>            an audit record of a certificate that was issued or renewed
//! audit-refusal/<newest first>             an audit record of what was refused to somebody
//! audit-stranger/<newest first>            an audit record of what was refused to nobody in particular
//! endpoint/<SPIFFE id>/<instance id>       where a running agent takes mesh traffic
//! decision/<instance id>/<decision id>     a denial, the first of its kind
//! flow/<SPIFFE id>/<digest>                calls that are alike, and how many there were
//! flow-unrecorded/<SPIFFE id>              how many calls there were besides
//! would-deny/policy/<mesh>/<name>          what a policy in mode audit would have denied
//! would-deny/port/<port>/<SPIFFE id>       what a listener in audit has let through that no policy permits
//! revocation/number                        the revision at which the denylist last changed
//! revocation/serial/<serial>               a revoked certificate
//! revocation/instance/<instance id>        a revoked instance
//! revocation/node/<mesh>/[gateway/]<name>  a node or gateway in quarantine
//! ```

use hauberk_identity::UnixMillis;

/// The record of [`crate::authority`] that says what this installation is.
pub const INSTALLATION: &str = "installation";

/// All authorities, and how often they have changed.
pub const AUTHORITIES: &str = "authority/";

/// How often trust has changed.
pub const TRUST: &str = "authority/trust";

/// An issuing authority that somebody else is to sign.
pub const AUTHORITY_REQUEST: &str = "authority/request";

/// Root authorities.
pub const ROOTS: &str = "authority/root/";

/// Issuing authorities.
pub const ISSUING: &str = "authority/issuing/";

/// Keys that sign views.
pub const VIEW_KEYS: &str = "authority/view/";

/// Keys that sign JWT-SVIDs.
pub const JWT_KEYS: &str = "jwt-key/";

/// All resources.
pub const RESOURCES: &str = "resource/";

/// The last good bundles of trust domains that are followed.
pub const FETCHED_BUNDLES: &str = "federation/bundle/";

/// The last good keys of issuers of users' tokens.
pub const FETCHED_KEYS: &str = "federation/keys/";

/// The number of our own bundle.
pub const OWN_BUNDLE: &str = "federation/own";

/// Contents of views and the revisions they got.
pub const VIEWS: &str = "view/";

/// Join tokens.
pub const TOKENS: &str = "token/";

/// Uses of join tokens.
pub const TOKEN_USES: &str = "token-use/";

/// What keys became by the evidence of their machines.
pub const ATTESTED: &str = "attested/";

/// For which keys evidence counts that counts for one.
pub const ATTESTED_ONCE: &str = "attested-once/";

/// Issued certificates.
pub const ISSUED: &str = "issued/";

/// Issued certificates, the latest first.
pub const ISSUED_ORDER: &str = "issued-order/";

/// Running agents.
pub const INSTANCES: &str = "instance/";

/// Which versions of trust running agents have acknowledged.
pub const TRUST_IN_FORCE: &str = "trust-in-force/";

/// Admins.
pub const ADMINS: &str = "admin/";

/// Login tokens.
pub const LOGINS: &str = "login/";

/// Audit records of what admins did, the latest first.
pub const AUDIT: &str = "audit/";

/// Audit records of certificates, the latest first.
pub const AUDIT_ISSUANCE: &str = "audit-issuance/";

/// Audit records of refusals to those who had proved who they are, the latest first.
pub const AUDIT_REFUSALS: &str = "audit-refusal/";

/// Audit records of refusals to those who had proved nothing, the latest first.
pub const AUDIT_STRANGERS: &str = "audit-stranger/";

/// Registered endpoints.
pub const ENDPOINTS: &str = "endpoint/";

/// Denials that are kept.
pub const DECISIONS: &str = "decision/";

/// Calls, and how many there were.
pub const FLOWS: &str = "flow/";

/// How many calls there were besides.
pub const UNRECORDED: &str = "flow-unrecorded/";

/// What would have been denied.
pub const WOULD_DENIALS: &str = "would-deny/";

/// The revocation lists that authorities signed last.
pub const REVOCATION_LISTS: &str = "crl/";

/// Everybody who is refused.
pub const REVOCATIONS: &str = "revocation/";

/// The number of the denylist.
pub const DENYLIST_NUMBER: &str = "revocation/number";

/// Revoked certificates.
pub const REVOKED_SERIALS: &str = "revocation/serial/";

/// Revoked instances.
pub const REVOKED_INSTANCES: &str = "revocation/instance/";

/// Nodes in quarantine.
pub const QUARANTINES: &str = "revocation/node/";

/// A resource. `kind` is spelt as in files (`VirtualNode`); a mesh stands in itself. Names hold no slash.
pub fn resource(kind: &str, mesh: &str, name: &str) -> String {
    format!("{RESOURCES}{kind}/{mesh}/{name}")
}

/// What is kept of a view. `kind` is that of the resource that the view is of.
pub fn view(kind: &str, mesh: &str, name: &str) -> String {
    format!("{VIEWS}{kind}/{mesh}/{name}")
}

/// A number spelt so that the order of keys is from the greatest to the least.
pub fn newest_first(number: u64) -> String {
    format!("{:016x}", u64::MAX - number)
}

/// The number behind [`newest_first`].
pub fn number_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().map(|inverted| u64::MAX - inverted)
}

/// The place of a certificate in the order of issuance.
pub fn issued_order(at: UnixMillis, serial: &str) -> String {
    format!("{ISSUED_ORDER}{}/{serial}", newest_first(at.0))
}
