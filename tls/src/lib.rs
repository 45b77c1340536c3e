//! X.509-SVIDs, trust bundles, the SPIFFE verifier and live reload over rustls.
