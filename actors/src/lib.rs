//! miroir-actors
