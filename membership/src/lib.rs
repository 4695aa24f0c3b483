//! miroir-membership
