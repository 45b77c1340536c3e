//! Cedar policies of a mesh: compile, decide, explain; pure.
