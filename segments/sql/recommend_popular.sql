-- Products by the number of members who bought them.
SELECT b.source, b.sku, any_value(p.category) AS category, count(*) AS buyers
FROM bought AS b
LEFT JOIN products AS p ON p.source = b.source AND p.sku = b.sku
GROUP BY b.source, b.sku
