//! miroir-node
