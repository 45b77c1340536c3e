//! One certificate taken apart into the facts that the chain's rules are about (RFC 5280 §4).

use hauberk_identity::{Serial, SerialError, UnixMillis, Validity};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use crate::key::{self, KeyError};

/// The longest certificate that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Why a single certificate breaks the X.509 profile. The fault is whoever issued or sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// More than 16 KiB.
    #[error("it has {0} bytes; 16384 are the most")]
    TooLong(usize),
    /// Not one whole certificate in DER.
    #[error("it is not exactly one X.509 certificate in DER")]
    Malformed,
    /// Not version 3.
    #[error("it is not of X.509 version 3")]
    Version,
    /// A negative serial number.
    #[error("its serial number is negative")]
    NegativeSerial,
    /// A serial number that is zero or too long.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// notAfter precedes notBefore.
    #[error("its validity ends before it begins")]
    Validity,
    /// A key that is not on the allow-list.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An extension that cannot be parsed or stands there twice.
    #[error("one of its extensions is malformed or repeated")]
    Extension,
    /// An extension is critical that must not be, or the reverse.
    #[error("its {0} extension has the wrong criticality")]
    Criticality(&'static str),
    /// An extension whose contents contradict the rest.
    #[error("its {0} extension contradicts RFC 5280")]
    Contents(&'static str),
    /// A critical extension that nobody here understands.
    #[error("it has a critical extension that is not understood")]
    UnknownCritical,
}

/// Takes certificates apart that follow one another.
pub(crate) fn split(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = X509Certificate::from_der(bytes).map_err(|_| CertificateFault::Malformed)?;
        let (one, _) = bytes.split_at_checked(bytes.len() - rest.len()).ok_or(CertificateFault::Malformed)?;
        certificates.push(CertificateDer::from(one.to_vec()));
        bytes = rest;
    }
    Ok(certificates)
}

/// What a certificate says, checked for form but not yet for truth.
pub(crate) struct Facts<'a> {
    pub(crate) serial: Serial,
    pub(crate) validity: Validity,
    pub(crate) self_issued: bool,
    /// The names of both as they stand in their bytes.
    pub(crate) subject: &'a [u8],
    pub(crate) issuer: &'a [u8],
    pub(crate) spki: &'a [u8],
    /// Set for an authority: cA is TRUE.
    pub(crate) authority: Option<Authority>,
    pub(crate) has_basic_constraints: bool,
    pub(crate) has_name_constraints: bool,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(crate) names: Vec<SubjectName<'a>>,
    pub(crate) subject_key_id: Option<&'a [u8]>,
    pub(crate) authority_key_id: Option<&'a [u8]>,
    /// Which of its issuer's certificates signed it, where it says that too.
    pub(crate) authority_serial: Option<Serial>,
}

#[derive(Clone, Copy)]
pub(crate) struct Authority {
    pub(crate) critical: bool,
    pub(crate) path_len: Option<u32>,
}

#[derive(Clone, Copy)]
pub(crate) struct KeyUsage {
    pub(crate) critical: bool,
    pub(crate) digital_signature: bool,
    pub(crate) cert_sign: bool,
    pub(crate) crl_sign: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct ExtendedKeyUsage {
    pub(crate) server: bool,
    pub(crate) client: bool,
}

/// One subject alternative name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SubjectName<'a> {
    Uri(&'a str),
    Dns(&'a str),
    Ip(&'a [u8]),
    Other,
}

/// The key id that a certificate says its key has (RFC 5280 §4.2.1.2).
pub(crate) fn subject_key_id(der: &CertificateDer<'_>) -> Result<Option<Vec<u8>>, CertificateFault> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateFault::Malformed)?;
    let id = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    Ok(id)
}

impl<'a> Facts<'a> {
    /// Takes `der` apart.
    pub(crate) fn read(der: &'a CertificateDer<'a>) -> Result<Self, CertificateFault> {
        let (facts, strength) = Self::read_with_strength(der)?;
        strength?;
        Ok(facts)
    }

    /// The same of a certificate whose key may be too weak, or none that is known, for who has to tell whose it is all
    /// the same; and whether it is.
    pub(crate) fn read_with_strength(
        der: &'a CertificateDer<'a>,
    ) -> Result<(Self, Result<(), KeyError>), CertificateFault> {
        if der.len() > MAX_LEN {
            return Err(CertificateFault::TooLong(der.len()));
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateFault::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateFault::Malformed);
        }
        let tbs = &certificate.tbs_certificate;
        if tbs.version != X509Version::V3 {
            return Err(CertificateFault::Version);
        }
        if tbs.raw_serial().first().is_some_and(|b| b & 0x80 != 0) {
            return Err(CertificateFault::NegativeSerial);
        }
        let mut facts = Self {
            serial: Serial::from_be_bytes(tbs.raw_serial())?,
            validity: Validity::new(
                instant(tbs.validity.not_before.timestamp()),
                instant(tbs.validity.not_after.timestamp()),
            )
            .map_err(|_| CertificateFault::Validity)?,
            self_issued: tbs.subject.as_raw() == tbs.issuer.as_raw(),
            subject: tbs.subject.as_raw(),
            issuer: tbs.issuer.as_raw(),
            spki: tbs.subject_pki.raw,
            authority: None,
            has_basic_constraints: false,
            has_name_constraints: false,
            key_usage: None,
            extended_key_usage: None,
            names: Vec::new(),
            subject_key_id: None,
            authority_key_id: None,
            authority_serial: None,
        };
        tbs.extensions_map().map_err(|_| CertificateFault::Extension)?;
        let subject_is_empty = tbs.subject.iter().next().is_none();
        for extension in tbs.extensions() {
            facts.take(extension.parsed_extension(), extension.critical, subject_is_empty)?;
        }
        let strength = match facts.authority {
            Some(_) => key::check_authority_strength(&tbs.subject_pki),
            None => key::check_strength(&tbs.subject_pki),
        };
        facts.check_consistency(subject_is_empty)?;
        Ok((facts, strength))
    }

    fn take(
        &mut self,
        extension: &ParsedExtension<'a>,
        critical: bool,
        subject_is_empty: bool,
    ) -> Result<(), CertificateFault> {
        match extension {
            ParsedExtension::BasicConstraints(constraints) => {
                self.has_basic_constraints = true;
                if constraints.ca {
                    self.authority = Some(Authority { critical, path_len: constraints.path_len_constraint });
                } else if constraints.path_len_constraint.is_some() {
                    return Err(CertificateFault::Contents("basicConstraints"));
                }
            }
            ParsedExtension::KeyUsage(usage) => {
                if usage.flags == 0 {
                    return Err(CertificateFault::Contents("keyUsage"));
                }
                self.key_usage = Some(KeyUsage {
                    critical,
                    digital_signature: usage.digital_signature(),
                    cert_sign: usage.key_cert_sign(),
                    crl_sign: usage.crl_sign(),
                });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.extended_key_usage =
                    Some(ExtendedKeyUsage { server: usage.server_auth, client: usage.client_auth });
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                if names.general_names.is_empty() {
                    return Err(CertificateFault::Contents("subjectAltName"));
                }
                if subject_is_empty && !critical {
                    return Err(CertificateFault::Criticality("subjectAltName"));
                }
                self.names = names.general_names.iter().map(subject_name).collect();
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                if critical {
                    return Err(CertificateFault::Criticality("subjectKeyIdentifier"));
                }
                self.subject_key_id = Some(id.0);
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                if critical {
                    return Err(CertificateFault::Criticality("authorityKeyIdentifier"));
                }
                // Both or neither (RFC 5280 §4.2.1.1); OpenSSL writes them by `issuer:always`.
                if id.authority_cert_issuer.is_some() != id.authority_cert_serial.is_some() {
                    return Err(CertificateFault::Contents("authorityKeyIdentifier"));
                }
                self.authority_serial = id.authority_cert_serial.map(Serial::from_be_bytes).transpose()?;
                // An authority that has no key id itself is named by the other two. Whoever takes no such certificate says so.
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0);
                if self.authority_key_id.is_none() && self.authority_serial.is_none() {
                    return Err(CertificateFault::Contents("authorityKeyIdentifier"));
                }
            }
            ParsedExtension::NameConstraints(constraints) => {
                if !critical {
                    return Err(CertificateFault::Criticality("nameConstraints"));
                }
                self.has_name_constraints = true;
                let empty = |list: &Option<Vec<_>>| list.as_ref().is_none_or(Vec::is_empty);
                if empty(&constraints.permitted_subtrees) && empty(&constraints.excluded_subtrees) {
                    return Err(CertificateFault::Contents("nameConstraints"));
                }
            }
            ParsedExtension::AuthorityInfoAccess(_) if critical => {
                return Err(CertificateFault::Criticality("authorityInfoAccess"));
            }
            ParsedExtension::ParseError { .. } => return Err(CertificateFault::Extension),
            ParsedExtension::PolicyConstraints(_) | ParsedExtension::InhibitAnyPolicy(_) if !critical => {
                return Err(CertificateFault::Criticality("policy constraints"));
            }
            _ if critical => return Err(CertificateFault::UnknownCritical),
            _ => {}
        }
        Ok(())
    }

    fn check_consistency(&self, subject_is_empty: bool) -> Result<(), CertificateFault> {
        let signs = self.key_usage.is_some_and(|usage| usage.cert_sign);
        if signs && self.authority.is_none() {
            return Err(CertificateFault::Contents("keyUsage"));
        }
        let has_path_len = self.authority.is_some_and(|authority| authority.path_len.is_some());
        if has_path_len && !signs {
            return Err(CertificateFault::Contents("basicConstraints"));
        }
        if self.has_name_constraints && self.authority.is_none() {
            return Err(CertificateFault::Contents("nameConstraints"));
        }
        if subject_is_empty && (self.authority.is_some() || self.names.is_empty()) {
            return Err(CertificateFault::Contents("subject"));
        }
        Ok(())
    }

    /// The URIs among the subject's names.
    pub(crate) fn uris(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().filter_map(|name| match name {
            SubjectName::Uri(uri) => Some(*uri),
            _ => None,
        })
    }
}

/// Instants before 1970 become 1970: no certificate of ours is so old, and none is valid then.
/// What X.509 says in seconds.
pub(crate) fn instant(secs: i64) -> UnixMillis {
    UnixMillis::from_secs(u64::try_from(secs).unwrap_or(0))
}

fn subject_name<'a>(name: &GeneralName<'a>) -> SubjectName<'a> {
    match name {
        GeneralName::URI(uri) => SubjectName::Uri(uri),
        GeneralName::DNSName(name) => SubjectName::Dns(name),
        GeneralName::IPAddress(octets) => SubjectName::Ip(octets),
        _ => SubjectName::Other,
    }
}
