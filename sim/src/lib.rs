//! miroir-sim
