//! What lies between the source and the seat: orders one way, batches the other, within a budget.
//! Knows neither of the two; holds no decision.

pub mod budget;
pub mod buffer;
pub mod events;
mod exchange;
pub mod marks;
pub mod notes;

pub use exchange::{
    Arrival, ArrivalKind, Arrivals, Bounds, Follow, Order, Orders, Room, StartAt, Trouble, exchange,
};
