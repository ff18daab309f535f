-- At most $n products for each of the members asked about (table wanted: member_id).
-- A product's score is that of its best reason; reasons are ranked by how sure the wish is:
-- back in stock (5) and cheaper (4) on what the member looked at, bought again and again (3 and up to 1
-- by habit), goes with what was bought (2 and up to 1), popular in the member's categories (1 and up
-- to 1), popular with everybody (up to 1: a member of whom nothing is known).
WITH own AS (
    SELECT l.source, l.member_id, l.sku, count(DISTINCT l.order_id) AS times, max(l.ordered_at) AS last_at
    FROM order_lines AS l
    SEMI JOIN wanted AS w ON w.member_id = l.member_id
    WHERE l.ordered_at >= $window_start AND l.ordered_at < $as_of AND l.sku IS NOT NULL
        AND l.status = 'paid' AND NOT coalesce(l.refunded, false)
    GROUP BY l.source, l.member_id, l.sku
    QUALIFY row_number() OVER (PARTITION BY l.source, l.member_id ORDER BY last_at DESC, l.sku) <= $history
),
looked AS (
    SELECT e.member_id, json_extract_string(e.properties, '$.sku') AS sku, max(e.occurred_at) AS last_at
    FROM events AS e
    SEMI JOIN wanted AS w ON w.member_id = e.member_id
    WHERE e.occurred_at >= $viewed_start AND e.occurred_at < $as_of
        AND json_extract_string(e.properties, '$.sku') IS NOT NULL
    GROUP BY ALL
),
changed AS (
    SELECT
        source, sku,
        max(changed_at) FILTER (WHERE coalesce(old_stock, 0) <= 0 AND new_stock > 0) AS back_at,
        max(changed_at) FILTER (WHERE new_price_minor < old_price_minor) AS cheaper_at
    FROM product_changes
    WHERE changed_at >= $viewed_start AND changed_at < $as_of
    GROUP BY source, sku
),
candidates AS (
    SELECT l.member_id, c.source, c.sku, 5.0 AS score, 'back_in_stock' AS reason
    FROM looked AS l JOIN changed AS c ON c.sku = l.sku AND c.back_at > l.last_at
    UNION ALL
    SELECT l.member_id, c.source, c.sku, 4.0, 'price_drop'
    FROM looked AS l JOIN changed AS c ON c.sku = l.sku AND c.cheaper_at > l.last_at
    UNION ALL
    SELECT member_id, source, sku, 3.0 + 1.0 - 1.0 / times, 'buy_again'
    FROM own WHERE times >= $buy_again
    UNION ALL
    -- Rounded: a sum of floats depends on the order of its rows in the last digit.
    SELECT member_id, source, other, 2.0 + round(score / (1.0 + score), 9), 'goes_with'
    FROM (
        SELECT o.member_id, s.source, s.other, sum(s.similarity) AS score
        FROM own AS o JOIN nearest AS s ON s.source = o.source AND s.sku = o.sku
        GROUP BY o.member_id, s.source, s.other
    )
    UNION ALL
    SELECT o.member_id, p.source, p.sku, 1.0 + p.share, 'popular_category'
    FROM (SELECT DISTINCT o.member_id, q.source, q.category FROM own AS o
          JOIN popular AS q ON q.source = o.source AND q.sku = o.sku WHERE q.category IS NOT NULL) AS o
    JOIN (SELECT *, buyers / (1.0 + max(buyers) OVER ()) AS share FROM popular
          QUALIFY row_number() OVER (PARTITION BY source, category ORDER BY buyers DESC, sku) <= $per_category) AS p
        ON p.source = o.source AND p.category = o.category
    UNION ALL
    SELECT w.member_id, p.source, p.sku, p.share, 'popular'
    FROM wanted AS w CROSS JOIN (
        SELECT *, buyers / (1.0 + max(buyers) OVER ()) AS share FROM popular
        QUALIFY row_number() OVER (ORDER BY buyers DESC, sku) <= $popular) AS p
),
best AS (
    SELECT member_id, source, sku, max(score) AS score, arg_max(reason, score) AS reason
    FROM candidates GROUP BY member_id, source, sku
),
possible AS (
    SELECT b.member_id, b.score, b.reason, p.source, p.sku, p.name, p.category, p.price_minor, p.url, p.image_url
    FROM best AS b
    JOIN products AS p ON p.source = b.source AND p.sku = b.sku
    ANTI JOIN (SELECT member_id, source, sku FROM own WHERE last_at >= $just_bought) AS j
        ON j.member_id = b.member_id AND j.source = b.source AND j.sku = b.sku
    WHERE p.stock IS NULL OR p.stock > 0
),
spread AS (
    SELECT * FROM possible
    QUALIFY category IS NULL
        OR row_number() OVER (PARTITION BY member_id, category ORDER BY score DESC, sku) <= $per_category
)
SELECT member_id, sku, name, category, price_minor, url, image_url, score, reason
FROM spread
QUALIFY row_number() OVER (PARTITION BY member_id ORDER BY score DESC, sku) <= $n
ORDER BY member_id, score DESC, sku
