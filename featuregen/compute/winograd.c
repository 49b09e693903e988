/* The two transforms of Winograd's F(4x4, 3x3) convolution (Lavin & Gray 2016), NHWC float32.
 *
 * An image is cut into 4x4 tiles of output, each fed by a 6x6 patch of input that overlaps its neighbours by two.
 * Between the transforms lie 36 matrix products, one per point of a transformed tile: they are left to BLAS.
 * Channels come last and in multiples of LANES, so that every inner loop is a whole vector.
 */
#include <string.h>

#define LANES 16
#define PATCH 6
#define TILE 4

typedef float lanes[LANES];

/* Six numbers in, six out, for LANES channels at once. */
static inline void forward(const float *restrict x0, const float *restrict x1, const float *restrict x2,
                           const float *restrict x3, const float *restrict x4, const float *restrict x5,
                           float *restrict y0, long stride) {
    float *restrict y1 = y0 + stride, *restrict y2 = y1 + stride, *restrict y3 = y2 + stride;
    float *restrict y4 = y3 + stride, *restrict y5 = y4 + stride;
    for (int c = 0; c < LANES; c++) {
        float even = x4[c] - 4 * x2[c], odd = x3[c] - 4 * x1[c];
        float even2 = x4[c] - x2[c], odd2 = 2 * (x3[c] - x1[c]);
        y0[c] = 4 * x0[c] - 5 * x2[c] + x4[c];
        y1[c] = even + odd;
        y2[c] = even - odd;
        y3[c] = even2 + odd2;
        y4[c] = even2 - odd2;
        y5[c] = 4 * x1[c] - 5 * x3[c] + x5[c];
    }
}

/* Six numbers in, four out. */
static inline void backward(const float *restrict x, long stride, float *restrict y0, float *restrict y1,
                            float *restrict y2, float *restrict y3) {
    for (int c = 0; c < LANES; c++) {
        float x0 = x[c], x1 = x[stride + c], x2 = x[2 * stride + c];
        float x3 = x[3 * stride + c], x4 = x[4 * stride + c], x5 = x[5 * stride + c];
        float sum = x1 + x2, gap = x1 - x2, sum2 = x3 + x4, gap2 = 2 * (x3 - x4);
        y0[c] = x0 + sum + sum2;
        y1[c] = gap + gap2;
        y2[c] = sum + 4 * sum2;
        y3[c] = gap + 4 * gap2 + x5;
    }
}

/* images (n, height, width, channels) -> patches (tiles, 36, channels): written tile by tile, in one stream */
void to_patches(const float *images, float *patches, long n, long height, long width, long channels, int threads) {
    long rows = (height + TILE - 1) / TILE, columns = (width + TILE - 1) / TILE;
    long tiles = n * rows * columns;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long tile = 0; tile < tiles; tile++) {
        long image = tile / (rows * columns), top = tile / columns % rows * TILE - 1, left = tile % columns * TILE - 1;
        for (long channel = 0; channel < channels; channel += LANES) {
            lanes patch[PATCH][PATCH], half[PATCH][PATCH];
            for (int i = 0; i < PATCH; i++)
                for (int j = 0; j < PATCH; j++) {
                    long y = top + i, x = left + j;
                    if (y < 0 || y >= height || x < 0 || x >= width)
                        memset(patch[i][j], 0, sizeof(lanes));
                    else
                        memcpy(patch[i][j], images + ((image * height + y) * width + x) * channels + channel,
                               sizeof(lanes));
                }
            for (int j = 0; j < PATCH; j++)
                forward(patch[0][j], patch[1][j], patch[2][j], patch[3][j], patch[4][j], patch[5][j], half[0][j],
                        PATCH * LANES);
            for (int i = 0; i < PATCH; i++)
                forward(half[i][0], half[i][1], half[i][2], half[i][3], half[i][4], half[i][5],
                        patches + (tile * PATCH * PATCH + PATCH * i) * channels + channel, channels);
        }
    }
}

/* products (36, tiles, channels) -> images (n, height, width, channels), plus a bias per channel where given */
void to_images(const float *products, const float *bias, float *images, long n, long height, long width, long channels,
               int threads) {
    long rows = (height + TILE - 1) / TILE, columns = (width + TILE - 1) / TILE;
    long tiles = n * rows * columns, stride = tiles * channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long tile = 0; tile < tiles; tile++) {
        long image = tile / (rows * columns), top = tile / columns % rows * TILE, left = tile % columns * TILE;
        for (long channel = 0; channel < channels; channel += LANES) {
            lanes half[TILE][PATCH], out[TILE];
            for (int j = 0; j < PATCH; j++)
                backward(products + j * stride + tile * channels + channel, PATCH * stride, half[0][j], half[1][j],
                         half[2][j], half[3][j]);
            for (int i = 0; i < TILE && top + i < height; i++) {
                backward(half[i][0], LANES, out[0], out[1], out[2], out[3]);
                float *line = images + ((image * height + top + i) * width + left) * channels + channel;
                for (int j = 0; j < TILE && left + j < width; j++)
                    for (int c = 0; c < LANES; c++)
                        line[j * channels + c] = out[j][c] + (bias ? bias[channel + c] : 0);
            }
        }
    }
}
