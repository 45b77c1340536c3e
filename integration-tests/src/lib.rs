//! A real mesh in a box: drives the binaries with real clients and hostile peers.
