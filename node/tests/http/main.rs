//! The node as its clients see it: requests over real sockets to a server in this process.

mod answers;
mod client;
mod documents;
mod edition;
mod finding;
mod manners;
mod refusals;
mod vectors;
