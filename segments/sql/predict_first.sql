-- The day of the first order that counts.
SELECT CAST(timezone($zone, min(ordered_at)) AS DATE) AS first
FROM orders
WHERE epoch_us(ordered_at) < $as_of AND (status = 'paid' OR net_minor > 0)
