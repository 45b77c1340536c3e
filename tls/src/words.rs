//! What the TLS library prints by the names of its code alone, in words.

use std::fmt::Debug;

use webpki::RequiredEkuNotFoundContext;

/// The id of a purpose, id-kp (RFC 5280 §4.2.1.12), but for its last number.
const PURPOSES: [usize; 8] = [1, 3, 6, 1, 5, 5, 7, 3];

/// The name of an error: `UnhandledCriticalExtension` is an unhandled critical extension. What it holds beside is left out.
pub(crate) fn of(error: &dyn Debug) -> String {
    let mut words = String::new();
    for c in format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric) {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// That a certificate of a chain may not be used as it is.
pub(crate) fn of_usage(context: &RequiredEkuNotFoundContext) -> String {
    let required = context.required.oid_values().collect::<Vec<_>>();
    let required = match required.strip_prefix(&PURPOSES) {
        Some([1]) => "serverAuth",
        Some([2]) => "clientAuth",
        _ => "what it is used for",
    };
    format!("the extended key usages of a certificate in it lack {required}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_that_is_missing_is_named() {
        let context = |required| RequiredEkuNotFoundContext { required, present: Vec::new() };
        let lack = "the extended key usages of a certificate in it lack";
        assert_eq!(of_usage(&context(webpki::KeyUsage::client_auth())), format!("{lack} clientAuth"));
        assert_eq!(of_usage(&context(webpki::KeyUsage::server_auth())), format!("{lack} serverAuth"));
    }
}
