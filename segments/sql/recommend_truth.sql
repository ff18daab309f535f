-- What was bought in the hold-out, but for what the same member had bought just before it.
SELECT DISTINCT l.member_id, l.sku
FROM order_lines AS l
ANTI JOIN (
    SELECT member_id, source, sku FROM order_lines
    WHERE ordered_at >= $just_bought AND ordered_at < $as_of AND status = 'paid'
) AS j ON j.member_id = l.member_id AND j.source = l.source AND j.sku = l.sku
WHERE l.ordered_at >= $as_of AND l.ordered_at < $until AND l.status = 'paid' AND l.sku IS NOT NULL
