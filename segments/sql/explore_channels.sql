-- Channels of orders, the most used first.
SELECT channel FROM orders WHERE channel IS NOT NULL GROUP BY channel ORDER BY count(*) DESC, channel LIMIT $rows
