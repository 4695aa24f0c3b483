//! miroir-tests
