//! miroir-gateway
