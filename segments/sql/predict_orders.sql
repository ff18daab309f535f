-- A row a customer and day with an order, in the shop's zone: several orders of a day are one purchase.
-- Orders that came to nothing (cancelled, refunded in full) are none. $as_of: an instant in microseconds.
SELECT
    member_id AS customer,
    CAST(timezone($zone, ordered_at) AS DATE) - DATE '1970-01-01' AS day,
    sum(net_minor) AS spend
FROM orders
WHERE epoch_us(ordered_at) < $as_of AND (status = 'paid' OR net_minor > 0)
GROUP BY ALL
