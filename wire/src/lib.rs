//! miroir-wire
