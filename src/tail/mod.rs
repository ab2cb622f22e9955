//! What lies between the source and the seat: orders one way, batches the other, within a budget.
