//! miroir-storage
