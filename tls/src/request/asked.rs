//! What a request asks for besides its key to be certified (RFC 2986 §4.1, RFC 2985 §5.4.2). None of it is ever taken; whoever asks for
//! what is not granted is refused, so that nobody believes to have been given it.

use std::net::IpAddr;

use hauberk_identity::SpiffeId;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

use super::{CsrError, SEQUENCE, element, only};
use crate::fingerprint::Fingerprint;
use crate::key::PublicKey;

const OBJECT_IDENTIFIER: u8 = 0x06;
const SET: u8 = 0x31;

/// The attributes that hold extensions, by the contents of their object identifiers: `extensionRequest`, and what Microsoft's tools
/// wrote before there was that.
const EXTENSION_REQUESTS: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e],
    &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0e],
];

/// The key of a request, and what that asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedKey {
    key: PublicKey,
    asked: Asked,
}

/// Names and rights, as they stand in the extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    uris: Vec<String>,
    dns_names: Vec<String>,
    /// 4 or 16 octets, if they are addresses.
    ip_addresses: Vec<Vec<u8>>,
    /// Names of any other kind.
    has_other_names: bool,
    /// To sign certificates or revocation lists.
    is_authority: bool,
}

impl RequestedKey {
    pub(super) fn new(key: PublicKey, asked: Asked) -> Self {
        Self { key, asked }
    }

    /// The public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The SHA-256 of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// Whether nothing is asked for but what is granted.
    ///
    /// # Errors
    /// [`CsrError::NotGranted`]: the requester's fault, whose program asks for something of its own.
    pub fn check(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ip_addresses: &[IpAddr],
    ) -> Result<(), CsrError> {
        let Asked { uris, dns_names: dns, ip_addresses: ips, has_other_names, is_authority } = &self.asked;
        let is_granted = |asked: &Vec<u8>| {
            ip_addresses.iter().any(|granted| match granted {
                IpAddr::V4(granted) => granted.octets()[..] == asked[..],
                IpAddr::V6(granted) => granted.octets()[..] == asked[..],
            })
        };
        let not_granted = if *is_authority {
            "the rights of an authority (CA:TRUE, keyCertSign or cRLSign)"
        } else if uris.len() > 1 {
            "more than one URI"
        } else if uris.iter().any(|uri| uri != id.as_str()) {
            "a URI that is not the SPIFFE id granted"
        } else if dns.iter().any(|asked| !dns_names.iter().any(|own| own.eq_ignore_ascii_case(asked))) {
            "a DNS name that is not granted"
        } else if !ips.iter().all(is_granted) {
            "an IP address that is not granted"
        } else if *has_other_names {
            "a name that is neither URI, DNS name nor IP address"
        } else {
            return Ok(());
        };
        Err(CsrError::NotGranted(not_granted))
    }
}

/// A key that asks for nothing: our own.
impl From<PublicKey> for RequestedKey {
    fn from(key: PublicKey) -> Self {
        Self { key, asked: Asked::default() }
    }
}

impl Asked {
    /// Reads the attributes of a request; `None` where what they ask for cannot be told, or stands there twice.
    pub(super) fn read(mut attributes: &[u8]) -> Option<Self> {
        let mut asked = None;
        while !attributes.is_empty() {
            let (attribute, rest) = element(attributes, SEQUENCE)?;
            attributes = rest;
            let (kind, values) = element(attribute.contents, OBJECT_IDENTIFIER)?;
            let values = only(values, SET)?;
            if EXTENSION_REQUESTS.contains(&kind.contents) {
                let extensions = only(values, SEQUENCE)?;
                if asked.replace(Self::of(extensions)?).is_some() {
                    return None;
                }
            }
        }
        Some(asked.unwrap_or_default())
    }

    fn of(mut extensions: &[u8]) -> Option<Self> {
        let (mut asked, mut seen) = (Self::default(), Vec::new());
        while !extensions.is_empty() {
            let (rest, extension) = X509Extension::from_der(extensions).ok()?;
            extensions = rest;
            if seen.contains(&extension.oid) {
                return None;
            }
            asked.take(extension.parsed_extension())?;
            seen.push(extension.oid);
        }
        Some(asked)
    }

    fn take(&mut self, extension: &ParsedExtension<'_>) -> Option<()> {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                        GeneralName::IPAddress(octets) => self.ip_addresses.push(octets.to_vec()),
                        _ => self.has_other_names = true,
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => self.is_authority |= constraints.ca,
            ParsedExtension::KeyUsage(usage) => {
                self.is_authority |= usage.key_cert_sign() || usage.crl_sign()
            }
            ParsedExtension::ParseError { .. } => return None,
            _ => {}
        }
        Some(())
    }
}
