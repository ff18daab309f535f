-- What each member bought in the window: the latest products of each, at most $history.
SELECT source, member_id, sku, count(DISTINCT order_id) AS times, max(ordered_at) AS last_at
FROM order_lines
WHERE ordered_at >= $window_start AND ordered_at < $as_of AND sku IS NOT NULL
    AND status = 'paid' AND NOT coalesce(refunded, false)
GROUP BY source, member_id, sku
QUALIFY row_number() OVER (PARTITION BY source, member_id ORDER BY last_at DESC, sku) <= $history
