-- Members of the truth who bought one of the $n most popular products that they had not just bought.
WITH bought AS (
    SELECT member_id, sku, max(ordered_at) AS last_at
    FROM order_lines
    WHERE ordered_at >= $window_start AND ordered_at < $as_of AND status = 'paid' AND sku IS NOT NULL
    GROUP BY member_id, sku
),
popular AS (
    SELECT sku, count(*) AS buyers FROM bought GROUP BY sku ORDER BY buyers DESC, sku LIMIT 200
),
named AS (
    SELECT m.member_id, p.sku
    FROM (SELECT DISTINCT member_id FROM truth) AS m
    CROSS JOIN popular AS p
    ANTI JOIN (SELECT member_id, sku FROM bought WHERE last_at >= $just_bought) AS j
        ON j.member_id = m.member_id AND j.sku = p.sku
    QUALIFY row_number() OVER (PARTITION BY m.member_id ORDER BY p.buyers DESC, p.sku) <= $n
)
SELECT count(DISTINCT n.member_id) AS hits FROM named AS n JOIN truth AS t USING (member_id, sku)
