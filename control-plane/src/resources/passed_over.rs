//! Which keys that others publish, or that are written in a resource, are of no use: told as far as somebody may want to read it.

/// How many are told. A document can hold tens of thousands, and they are told in the log, in findings and in warnings.
const MOST_TOLD: usize = 20;

/// Why each of the first few is of no use, and how many more are.
pub(crate) fn passed_over(errors: &[impl ToString]) -> Vec<String> {
    let mut told: Vec<String> = errors.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    if let more @ 1.. = errors.len().saturating_sub(MOST_TOLD) {
        told.push(format!("{more} more are of no use"));
    }
    told
}

#[cfg(test)]
mod tests {
    use hauberk_identity::TrustDomain;
    use hauberk_tls::SpiffeBundle;

    use super::*;

    #[test]
    fn of_many_the_first_are_told_and_the_others_counted() {
        let told = |count: usize| {
            let document = format!("{{\"keys\":[{}]}}", vec!["1"; count].join(","));
            let partner = TrustDomain::parse("partner.example").unwrap();
            passed_over(&SpiffeBundle::parse_and_tell(&partner, document.as_bytes()).unwrap().1)
        };
        assert_eq!((told(0).len(), told(20).len()), (0, 20));
        let many = told(32_000);
        assert_eq!(
            (many.len(), &*many[19], &*many[20]),
            (21, "key number 20 has no `kty`", "31980 more are of no use")
        );
    }
}
