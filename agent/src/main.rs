//! Stands beside a service: mutual TLS, routing and authorization.

fn main() {}
