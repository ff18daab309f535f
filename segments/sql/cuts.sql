-- The cut points (20, 40, 60, 80 %), the means that the eight value segments compare with, and
-- the spend that parts the top share.
SELECT
    count(*) AS scored,
    quantile_disc(recency, [0.2, 0.4, 0.6, 0.8]) AS recency,
    quantile_disc(frequency, [0.2, 0.4, 0.6, 0.8]) AS frequency,
    quantile_disc(monetary, [0.2, 0.4, 0.6, 0.8]) AS monetary,
    avg(recency) AS mean_recency,
    avg(frequency) AS mean_frequency,
    avg(monetary) AS mean_monetary,
    quantile_disc(monetary, $top_quantile) AS top_spend
FROM measures
WHERE recency IS NOT NULL
